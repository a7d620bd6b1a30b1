"""What a phase asks of an environment by name: pure readings of text. What it imports: `runner/trial.py`."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.research_log.phases import phase_files
from runner.trial import BLOCK

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)")
_BOUND = re.compile(r">=|==|~=|>|@|\.whl")


@dataclass(frozen=True)
class Requirement:
    """One requirement, and the file and line that say so (1-based; 0: `file` says it all)."""

    text: str
    file: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """The normalised name of the package."""
        return distribution(self.text)

    @property
    def where(self) -> str:
        """`train.py, line 2`."""
        return f"{self.file}, line {self.line}" if self.line else self.file


def distribution(requirement: str) -> str:
    """The normalised name of a requirement: `Torch[extra]>=2` → torch."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else requirement


def has_lower_bound(requirement: str) -> bool:
    """Whether the requirement keeps a resolver from going back to any old version."""
    return bool(_BOUND.search(requirement.partition(";")[0]))


@dataclass(frozen=True)
class CpuBuilds:
    """How conf/instance/local.yaml installs on a CPU what phases ask of a GPU; None leaves a package out."""

    packages: tuple[tuple[str, str | None], ...] = ()
    overrides: tuple[tuple[str, tuple[str, ...]], ...] = ()
    find_links: str | None = None
    torch_backend: str | None = None
    python: str | None = None


def cpu_builds(folders: tuple[Path, ...]) -> CpuBuilds:
    """From the `local` instance of the last of these configuration folders that has one."""
    from omegaconf import OmegaConf

    files = [file for folder in folders if (file := folder / "instance/local.yaml").is_file()]
    if not files:
        return CpuBuilds()
    said: Any = OmegaConf.to_container(OmegaConf.load(files[-1]), resolve=True)
    return CpuBuilds(
        packages=tuple((said.get("packages") or {}).items()),
        overrides=tuple((name, tuple(lines)) for name, lines in (said.get("overrides") or {}).items()),
        find_links=said.get("find_links"),
        torch_backend=said.get("torch_backend"),
        python=said.get("python"),
    )


@dataclass(frozen=True)
class DeclaredPhase:
    """The packages a phase file names, each with its line."""

    name: str
    deps: tuple[Requirement, ...]


def declared_phase(file: Path, shown: str) -> DeclaredPhase | None:
    """The phase of a YAML file with the line of each dep; None for a file that cannot be read."""
    import yaml

    try:
        root = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
    phase = _value_of(root, "phase")
    name, deps = _value_of(phase, "name"), _value_of(phase, "deps")
    items = deps.value if isinstance(deps, yaml.SequenceNode) else []
    lines = tuple(Requirement(str(item.value), shown, item.start_mark.line + 1) for item in items)
    return DeclaredPhase(str(name.value) if name else file.stem, lines)


def _value_of(node: Any, key: str) -> Any:
    """The node behind a key of a mapping node, or None."""
    pairs = node.value if node is not None and isinstance(node.value, list) else []
    return next((pair[1] for pair in pairs if isinstance(pair, tuple) and pair[0].value == key), None)


def origin(dep: str, choice: str, folders: tuple[Path, ...], cwd: Path) -> Requirement:
    """The dep with the line of YAML that says so; what no file says was typed."""
    file = dict(phase_files(folders)).get(choice)
    shown = str(file.relative_to(cwd)) if file and file.is_relative_to(cwd) else str(file)
    declared = declared_phase(file, shown) if file else None
    same = [written for written in declared.deps if written.text == dep] if declared else []
    return same[0] if same else Requirement(dep, "typed as phase.deps")


def script_requirements(source: str, file: str = "") -> tuple[Requirement, ...]:
    """The `dependencies` of a script's PEP 723 block; none where there is no block or it cannot be read."""
    block = BLOCK.search(source)
    if block is None:
        return ()
    text = "".join(
        line[2:] if line.startswith("# ") else line[1:] for line in block["content"].splitlines(True)
    )
    try:
        declared = tomllib.loads(text).get("dependencies", [])
    except tomllib.TOMLDecodeError:
        return ()
    first = source[: block.start("content")].count("\n") + 1
    lines = block["content"].splitlines()
    return tuple(Requirement(str(dep), file, first + _line_of(str(dep), lines)) for dep in declared)


def _line_of(text: str, lines: list[str]) -> int:
    """The index of the first line that holds the text; 0 when none does."""
    return next((number for number, line in enumerate(lines) if text in line), 0)


def listed_requirements(text: str, file: str = "") -> tuple[Requirement, ...]:
    """The lines of a requirements.txt that name a package; options and comments are left to uv."""
    lines = (
        (number, re.sub(r"(^|\s)#.*", "", line).strip()) for number, line in enumerate(text.splitlines(), 1)
    )
    return tuple(
        Requirement(line, file, number) for number, line in lines if line and not line.startswith("-")
    )


def text_of(path: Path) -> str:
    """The file's text; nothing for a file that is not there."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""

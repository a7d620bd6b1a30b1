"""What the YAML files of conf/ say about packages, read as they are, without composing them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.facts.packages import Requirement


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


def phase_files(folders: tuple[Path, ...]) -> tuple[tuple[str, Path], ...]:
    """(choice, file) of every phase; a later folder's file stands for an earlier one's of the same name."""
    found = {file.stem: file for folder in folders for file in sorted((folder / "phase").glob("*.yaml"))}
    return tuple(sorted(found.items()))


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
    phase = value_of(root, "phase")
    name, deps = value_of(phase, "name"), value_of(phase, "deps")
    items = deps.value if isinstance(deps, yaml.SequenceNode) else []
    lines = tuple(Requirement(str(item.value), shown, item.start_mark.line + 1) for item in items)
    return DeclaredPhase(str(name.value) if name else file.stem, lines)


def value_of(node: Any, key: str) -> Any:
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

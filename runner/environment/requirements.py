"""What a phase asks of an environment: packages by name, modules by import. Pure readings of text."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.research_log.phases import phase_files

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


_BLOCK = re.compile(r"(?m)^# /// script[ \t]*\n(?P<content>(?:#(?: .*)?\n)+?)# ///[ \t]*$")  # PEP 723

# A script that imports one of these answers --help without doing its work.
PARSERS = frozenset(
    {"argparse", "click", "typer", "fire", "tyro", "simple_parsing", "absl", "docopt", "cyclopts"}
)


@dataclass(frozen=True)
class Imports:
    """Import statements, a name each. `inner` are those inside functions, which a job may never reach."""

    top: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()


def script_requirements(source: str, file: str = "") -> tuple[Requirement, ...]:
    """The `dependencies` of a script's PEP 723 block; none where there is no block or it cannot be read."""
    block = _BLOCK.search(source)
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


def has_parser(source: str) -> bool:
    """Whether a script imports an argument parser, so that `--help` ends before the work begins."""
    tree = _parsed(source)
    return tree is not None and any(module.partition(".")[0] in PARSERS for module in _modules_in(tree))


@lru_cache(maxsize=64)  # modules that several scripts share; the key is the text itself
def _parsed(source: str) -> ast.Module | None:
    """The syntax tree; None for what is not Python, which the script's own `--help` will tell better."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def _modules_in(tree: ast.Module) -> Iterator[str]:
    """All modules imported anywhere below. Statements stand only in other statements, handlers and cases."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, block, ())
            waiting += below if isinstance(below, list) else ()


def script_imports(script: Path, phase_folder: Path) -> Imports:
    """What the script and the phase's own modules behind it import from installed packages.

    Imports under `if` and in a `try` with a handler are the script's own business; so is the standard
    library. The phase's modules are read, never run.
    """
    top: dict[str, None] = {}
    inner: dict[str, None] = {}
    waiting, seen = [(script, False)], set()
    while waiting:
        path, through_inner = waiting.pop(0)
        if path in seen or (tree := _parsed(text_of(path))) is None:
            continue
        seen.add(path)
        for statement, is_inner in _statements(tree.body, through_inner):
            module = _imported_module(statement)
            local = _local_module(module, (path.parent, phase_folder))
            if local is not None:
                waiting.append((local, is_inner))
            elif module.partition(".")[0] not in sys.stdlib_module_names:
                (inner if is_inner else top)[statement] = None
    return Imports(tuple(top), tuple(statement for statement in inner if statement not in top))


def text_of(path: Path) -> str:
    """The file's text; nothing for a file that is not there."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _imported_module(statement: str) -> str:
    """`from a.b import c` → a.b."""
    return statement.split()[1]


def _local_module(module: str, folders: tuple[Path, ...]) -> Path | None:
    """The file of a module that lies beside the script, if it is one."""
    parts = module.split(".")
    for folder in folders:
        base = folder.joinpath(*parts)
        for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if file.is_file():
                return file
        if (folder / parts[0]).is_dir() or (folder / f"{parts[0]}.py").is_file():
            return folder / parts[0] / "__init__.py"
    return None


def _statements(body: list[ast.stmt], is_inner: bool) -> Iterator[tuple[str, bool]]:
    """The unconditional imports of a block, one module a statement, and whether a function holds them."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((f"import {alias.name}", is_inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level and node.module != "__future__":
                names = ", ".join(alias.name for alias in node.names)
                yield f"from {node.module} import {names}", is_inner
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(node.body, True)
        elif isinstance(node, ast.ClassDef | ast.With | ast.For) or (
            isinstance(node, ast.Try) and not node.handlers
        ):
            yield from _statements(node.body, is_inner)


def main(scripts: list[str]) -> None:
    """Print the imports of these scripts, each ended by a NUL, those inside functions behind a `?`.

    For code that is cloned only when a plan runs: `python requirements.py FOLDER SCRIPT...`.
    """
    folder = Path(scripts[0])
    for script in scripts[1:]:
        found = script_imports(folder / script, folder)
        lines = (*found.top, *(f"?{line}" for line in found.inner))
        sys.stdout.write("".join(f"{line}\0" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1:])

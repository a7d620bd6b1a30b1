"""The house: imports go down only, effects are in world/ only, functions are short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import runner

HOUSE = Path(runner.__file__).parent
MODULES = sorted(path for path in HOUSE.rglob("*.py") if path.name != "__init__.py")

# From the ground up; a module imports from its own layer and from those before it.
LAYERS = (
    ("runner.errors", "runner.shim", "runner.trial"),
    ("runner.plan",),
    ("runner.world.world",),
    ("runner.research_log",),
    ("runner.config", "runner.executors"),
    ("runner.environment", "runner.machines"),
    ("runner.jobs",),
    ("runner.doctor", "runner.report", "runner.research_log.discover"),
    ("runner.verbs",),
    ("runner.view",),
    ("runner.world",),
    ("runner.apply",),
    ("runner",),  # cli, consent, hydra_flags, and what stands beside them
)
# Who may have an effect: the world, and those at the top that set it to work.
MAY_ACT = (
    "runner.world",
    "runner.shim",
    "runner.trial",
    "runner.apply",
    "runner.cli",
    "runner.consent",
    "runner.hydra_flags",
)
EFFECTS = {
    "subprocess",
    "httpx",
    "fabric",
    "invoke",
    "paramiko",
    "socket",
    "time",
    "random",
    "secrets",
    "uuid",
}
MAX_LINES = 50


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(HOUSE.parent).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules that a file imports, and whether it does so as it is imported itself."""
    tree = ast.parse(path.read_text())
    lazy = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.Lambda)
            for node in ast.walk(function)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield node.module or "", id(node) not in lazy


def ours(path: Path) -> list[str]:
    """The runner's modules that a file imports; `from runner.jobs import sweep` is `runner.jobs.sweep`."""
    known = {name_of(module) for module in MODULES}
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "runner":
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in inner if name in known] or [node.module or ""]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("runner.")]
    return found


def layer(name: str) -> int:
    """The layer whose member is the longest beginning of the name: a module may stand above its package."""
    homes = {member: height for height, members in enumerate(LAYERS) for member in members}
    return homes[max((home for home in homes if f"{name}.".startswith(f"{home}.")), key=len)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    height = layer(name_of(path))
    assert [name for name in ours(path) if layer(name) > height] == []


def test_no_import_cycle() -> None:
    left = {name_of(path): set(ours(path)) - {name_of(path)} for path in MODULES}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_effects_are_in_the_world_only(path: Path) -> None:
    if name_of(path).startswith(MAY_ACT):
        return
    assert sorted({module for module, _ in imports(path) if module.split(".")[0] in EFFECTS}) == []
    assert [call for call in calls(path) if is_effect(call)] == []


def calls(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def is_effect(call: ast.Call) -> bool:
    """Whether it writes: open for writing, or a method that changes a file."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        modes = [
            a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)
        ]
        return any(isinstance(mode, str) and set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)
    return name in {
        *("write_text", "write_bytes", "mkdir", "unlink", "rmdir", "rename", "symlink_to", "touch", "chmod"),
        *("makedirs", "rmtree", "system", "popen", "kill", "killpg"),
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short_and_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the first line says what the module is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno and node.end_lineno - node.lineno < MAX_LINES, node.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    heavy = {"httpx", "fabric", "invoke", "paramiko", "yaml", "uv"}
    at_import = {module.split(".")[0] for module, eager in imports(path) if eager}
    # an effect's own module is itself imported only when a plan is applied, and what looks into a YAML
    # file's lines when OmegaConf has imported yaml
    own = {
        "runner.world.process": {"invoke"},
        "runner.world.http": {"httpx"},
        "runner.config.mistakes": {"yaml"},
        "runner.config.plain": {"yaml"},
    }
    assert at_import & heavy <= own.get(name_of(path), set())


def test_packages_are_empty() -> None:
    """But for `config`, whose import alone makes the schema known to Hydra."""
    assert [p.parent.name for p in HOUSE.rglob("__init__.py") if p.read_text().strip()] == ["config"]

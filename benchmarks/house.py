"""How large the house is, and how far one command walks through it.

    python -m benchmarks.house [COMMIT…]

Without a commit the working tree is measured; each commit is checked out into a temporary folder.

- *modules*: the files of `runner/` that are not empty; *lines*: of all of them, blank ones and comments too.
- *public names used by no other module*: functions, classes and values at the top of a module, without an
  underscore, that no other module of `runner/` imports, reaches as `module.name`, or gives as `module:name`
  in a table. The shim is one program in one file and is counted apart.
- *a walk*: the functions of ours that are called while the plan of `phase=phase11 action=train` is made
  and printed, and the modules in which they stand, as `sys.setprofile` sees them. Class bodies,
  comprehensions and lambdas do not count.
- *bash inside Python strings*: the source lines of string constants that go over several lines and hold a
  shell construct (`CONSTRUCT`: `$(`, `"$name`, `&&`, `>&2`, `; do`, `[ -e` and the like). Adjacent literals
  are one constant; docstrings are none. Constants of one line that hold such a construct are counted beside.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
WORDS = ("phase=phase11", "action=train")
CONSTRUCT = re.compile(
    r"""\$\(|\$\{|"\$[a-z]|\$[?#@!]|(?:^|\s)&&(?:\s|$)|(?:^|\s)\|\|\s|[12]?>&[12]|[12&]>/dev/null"""
    r"""|;\s*(?:do|done|then|fi|esac)\b|\[\ !?\ ?-[a-z]\ |^\s*(?:fi|done|esac)$""",
    re.MULTILINE | re.VERBOSE,
)

# Runs in a process of its own, where nothing but the walk is counted.
WALK = """
import json, os, sys, threading
root, words = sys.argv[1], sys.argv[2:]
house, seen = os.path.join(root, "runner") + os.sep, set()

def note(frame, event, _):
    code = frame.f_code
    is_function = code.co_flags & 1 and not code.co_name.startswith("<")  # 1, CO_OPTIMIZED: no class body
    if event == "call" and is_function and code.co_filename.startswith(house):
        seen.add((code.co_filename, code.co_firstlineno, code.co_name))

from runner import cli
assert cli.__file__.startswith(house), cli.__file__
sys.argv = ["runner", *words]
threading.setprofile(note)
sys.setprofile(note)
try:
    cli.main()
except SystemExit as ended:
    assert not ended.code, ended.code
finally:
    sys.setprofile(None)
with open(os.environ["WALKED"], "w") as file:
    json.dump(sorted(seen), file)
"""


@dataclass(frozen=True)
class Module:
    """One file of the house."""

    name: str
    text: str
    tree: ast.Module

    @property
    def public_names(self) -> set[str]:
        """What stands at its top without an underscore."""
        return {name for node in self.tree.body for name in _names_of(node) if not name.startswith("_")}


def main() -> None:
    """A table with a column for each commit, or for the working tree."""
    columns = {commit: measure_commit(commit) for commit in sys.argv[1:]} or {"now": measure(CHECKOUT)}
    names = list(next(iter(columns.values())))
    print("| | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in names:
        print(f"| {name} | " + " | ".join(f"{column[name]:,}" for column in columns.values()) + " |")


def measure_commit(commit: str) -> dict[str, int]:
    """The measures of a commit, in a clone that is gone afterwards."""
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place).resolve() / "house"
        quiet = ("git", "-c", "advice.detachedHead=false")
        subprocess.run([*quiet, "clone", "-q", "--shared", "-n", CHECKOUT, clone], check=True)
        subprocess.run([*quiet, "-C", clone, "checkout", "-q", commit], check=True)
        return measure(clone)


def measure(root: Path) -> dict[str, int]:
    """Each measure by its name."""
    modules = list(modules_of(root / "runner"))
    shim = [module for module in modules if module.name == "runner.shim"]
    rest = [module for module in modules if module.name != "runner.shim"]
    public, unused = sum(len(module.public_names) for module in rest), unused_names(modules)
    functions = walk(root)
    several, single = bash_lines(modules)
    return {
        "modules": len(modules),
        "lines of Python": sum(module.text.count("\n") for module in modules),
        "… of them in the shim": sum(module.text.count("\n") for module in shim),
        "public names": public,
        "… of them used by no other module": sum(len(unused[module.name]) for module in rest),
        "… in the shim, used by no other module": sum(len(unused[module.name]) for module in shim),
        f"functions that `{' '.join(WORDS)}` calls": len(functions),
        "… modules in which they stand": len({function[0] for function in functions}),
        "lines of bash inside Python strings": several,
        "… strings of one line with a shell construct": single,
    }


def modules_of(house: Path) -> Iterator[Module]:
    """Those that are not empty."""
    for path in sorted(house.rglob("*.py")):
        text = path.read_text()
        if text.strip():
            parts = path.relative_to(house.parent).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__")
            yield Module(name, text, ast.parse(text))


def _names_of(node: ast.stmt) -> Iterator[str]:
    """What a statement at the top of a module names."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        if isinstance(node, ast.Assign | ast.AnnAssign) and target is not None:
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def unused_names(modules: list[Module]) -> dict[str, set[str]]:
    """The public names of each module that no other one uses."""
    known = {module.name for module in modules}
    used = {use for module in modules for use in _uses(module, known) if use[0] != module.name}
    return {
        module.name: {name for name in module.public_names if (module.name, name) not in used}
        for module in modules
    }


def _uses(module: Module, known: set[str]) -> Iterator[tuple[str, str]]:
    """(module, name) of all that it imports, reaches through a module, or gives as `module:name`."""
    called: dict[str, str] = {}  # what a module of ours is called here
    nodes = list(ast.walk(module.tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name
                called[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            called.update((alias.asname, alias.name) for alias in node.names if alias.asname)
    for node in nodes:
        if isinstance(node, ast.Attribute):
            place = called.get(ast.unparse(node.value), ast.unparse(node.value))
            if place in known:
                yield place, node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            place, colon, name = node.value.partition(":")
            if colon and re.fullmatch(r"[\w.]+", place):
                yield from ((home, name) for home in known if home.endswith(f".{place}"))


def walk(root: Path) -> list[tuple[str, int, str]]:
    """(file, line, name) of each function of ours that a plan passes through."""
    with tempfile.NamedTemporaryFile() as walked:
        env = {**os.environ, "PYTHONPATH": str(root), "WALKED": walked.name}
        subprocess.run(
            [sys.executable, "-c", WALK, str(root), *WORDS],
            cwd=root,
            env=env,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return [tuple(function) for function in json.loads(Path(walked.name).read_text())]


def bash_lines(modules: list[Module]) -> tuple[int, int]:
    """Source lines of constants over several lines that hold shell, and the number of those of one line."""
    several, single = 0, 0
    for module in modules:
        for node in _strings(module.tree):
            if not CONSTRUCT.search(_text_of(node)):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            several, single = (several + lines, single) if lines > 1 else (several, single + 1)
    return several, single


def _strings(node: ast.AST) -> Iterator[ast.Constant | ast.JoinedStr]:
    """The string constants below a node, whole, but for docstrings."""
    for child in ast.iter_child_nodes(node):
        is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if is_docstring:
            continue
        if isinstance(child, ast.JoinedStr) or (
            isinstance(child, ast.Constant) and isinstance(child.value, str)
        ):
            yield child
        else:
            yield from _strings(child)


def _text_of(node: ast.Constant | ast.JoinedStr) -> str:
    """Its text, without what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))


if __name__ == "__main__":
    main()

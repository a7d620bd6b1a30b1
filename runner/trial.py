#!/usr/bin/env python3
"""The program that the steps of a preflight call: a phase's packages tried here, then thrown away.

It needs Python 3.8 and nothing else. A step is one layer of it, from fast to slow; the first that fails ends
the preflight with exit code 65, its last words in the log:

    code      the phase's files as git would carry them (or a fresh clone), and its scripts read
    resolve   one set of versions for the machine, with hashes: the lock
    install   the same set for a CPU, in a new environment
    import    every import of the scripts one by one, then `--help` of those that have a parser
    remember  the record that this content has passed
    clean     the throw-away folder goes

    trial.py LAYER [its options] -- the uv or git command that it runs -- what that is asked for

The throw-away folder lies inside uv's own cache, where installing is linking and where `uv cache prune` finds
what a power cut left. It has the number of the process that asked, so that two preflights keep apart. A layer
that fails or is stopped removes it. How scripts are read is here too: plans name a pass by it.
"""

from __future__ import annotations

import argparse
import ast
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
import warnings
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import unquote

NOT_HOLDING, NOT_CLEAN, TIMED_OUT = 65, 70, 124
IMPORT_LIMIT_S, HELP_LIMIT_S, GRACE_S = 300, 30, 2
NEVER = 'sys_platform == "never"'
SMALL = 1 << 20  # bytes: outside git what is larger is no code

# Variables of the caller that would change which environment uv means, or where git looks, or that pay.
NOT_FOR_TOOLS = (
    *("LAMBDA_API_KEY", "VIRTUAL_ENV", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX"),
    *("UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_BREAK_SYSTEM_PACKAGES"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX"),
)
NOT_FOR_SCRIPTS = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


# ------------------------------------------------------------------------------------ reading scripts

# A script that imports one of these answers --help without doing its work.
PARSERS = frozenset(
    {"argparse", "click", "typer", "fire", "tyro", "simple_parsing", "absl", "docopt", "cyclopts"}
)
STDLIB = frozenset(
    getattr(sys, "stdlib_module_names", None)
    or (*sys.builtin_module_names, *(path.stem for path in Path(os.__file__).parent.iterdir()))
)
BLOCK = re.compile(r"(?m)^# /// script[ \t]*\n(?P<content>(?:#(?: .*)?\n)+?)# ///[ \t]*$")  # PEP 723

# Syntax that an older Python than the machine's cannot read, by the line at which it gives up.
NEWER = (
    ((3, 12), re.compile(r"^\s*type\s+\w+.*=|^\s*(async\s+)?(def|class)\s+\w+\s*\[|\b[rR]?[fF][rR]?['\"]")),
    ((3, 14), re.compile(r"\b[rR]?[tT][rR]?['\"]|^\s*except\s+[\w.]+\s*,")),
    ((3, 15), re.compile(r"^\s*lazy\s+(import|from)\b")),
)


@dataclass(frozen=True)
class Imports:
    """Import statements, a name each. `inner` are those inside functions, which a job may never reach."""

    top: Tuple[str, ...] = ()
    inner: Tuple[str, ...] = ()


def bytes_of(path: Path) -> bytes:
    """The file's bytes; none for a file that is not there."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def source_text(source: bytes) -> str:
    """A script as Python reads it: by its byte order mark or the encoding that its first lines declare."""
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(source).readline)
        text = source.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError):
        text = source.decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@lru_cache(maxsize=64)  # modules that several scripts share; the key is the content itself
def parsed(source: bytes) -> "ast.Module | SyntaxError":
    """The syntax tree, or what is wrong with the text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, "script", "exec", dont_inherit=True)  # finds what a tree may say and no program
            return tree
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL, or brackets in brackets without end
        return SyntaxError(str(error))


def has_parser(source: bytes) -> bool:
    """Whether a script imports an argument parser, so that `--help` ends before the work begins."""
    tree = parsed(source)
    return isinstance(tree, ast.Module) and any(
        module.partition(".")[0] in PARSERS for module in modules_in(tree)
    )


def modules_in(tree: ast.Module) -> Iterator[str]:
    """All modules imported anywhere below. Statements stand only in other statements, handlers and cases."""
    waiting: List[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, block, ())
            waiting += below if isinstance(below, list) else ()


def script_imports(script: Path, phase_folder: Path, inputs: Sequence[Path] = ()) -> Imports:
    """What the script and the phase's own modules behind it import from installed packages.

    Imports under `if` and in a `try` with a handler are the script's own business; so is the standard
    library. The phase's modules are read, never run; so are those among its inputs.
    """
    top: Dict[str, None] = {}
    inner: Dict[str, None] = {}
    for _, statement, is_inner, local in reached(script, phase_folder, inputs):
        if statement and not local and imported_module(statement).partition(".")[0] not in STDLIB:
            (inner if is_inner else top)[statement] = None
    return Imports(tuple(top), tuple(statement for statement in inner if statement not in top))


def reached(
    script: Path, phase_folder: Path, inputs: Sequence[Path] = ()
) -> Iterator[Tuple[Path, str, bool, bool]]:
    """(file, import statement, whether a function holds it, whether a file of the phase answers it).

    Each file that is reached comes once with the statement "", before its own. `inputs` are folders of
    modules beside the phase's: they count where a script touches sys.path.
    """
    waiting: List[Tuple[Path, bool]] = [(script, False)]
    seen = set()
    while waiting:
        path, through_inner = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        yield path, "", through_inner, True
        source = bytes_of(path)
        tree = parsed(source)
        if not isinstance(tree, ast.Module):
            continue
        folders = (path.parent, phase_folder, *(inputs if b"sys.path" in source else ()))
        for statement, is_inner in statements(tree.body, through_inner):
            local = local_module(imported_module(statement), folders)
            yield path, statement, is_inner, local is not None
            if local is not None:
                waiting.append((local, is_inner))


def imported_module(statement: str) -> str:
    """`from a.b import c` → a.b."""
    return statement.split()[1]


def local_module(module: str, folders: Iterable[Path]) -> Optional[Path]:
    """The file of a module that lies in one of these folders, if it is one."""
    parts = module.split(".")
    for folder in folders:
        base = folder.joinpath(*parts)
        for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if file.is_file():
                return file
        if (folder / parts[0]).is_dir() or (folder / f"{parts[0]}.py").is_file():
            return folder / parts[0] / "__init__.py"
    return None


def statements(body: List[ast.stmt], is_inner: bool) -> Iterator[Tuple[str, bool]]:
    """The unconditional imports of a block, one module a statement, and whether a function holds them."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((f"import {alias.name}", is_inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level and node.module != "__future__":
                names = ", ".join(alias.name for alias in node.names)
                yield f"from {node.module} import {names}", is_inner
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from statements(node.body, True)
        elif isinstance(node, (ast.ClassDef, ast.With, ast.For)) or (
            isinstance(node, ast.Try) and not node.handlers
        ):
            yield from statements(node.body, is_inner)


def input_modules(root: Path, phase_folder: Path, names: Iterable[str]) -> Tuple[Path, ...]:
    """The Python files behind `phase.inputs`, each a path from the phase's folder, else from the root."""
    found: Dict[Path, None] = {}
    for name in names:
        for base in (phase_folder, root):
            whole = os.path.normpath(str(base / name.lstrip("/")))
            there = [Path(path) for path in sorted(glob.glob(whole))] or [Path(whole)]
            files = [file for at in there for file in (sorted(at.rglob("*.py")) if at.is_dir() else [at])]
            files = [file for file in files if file.suffix == ".py" and file.is_file()]
            if files:
                found.update(dict.fromkeys(files))
                break
    return tuple(found)


def module_folders(files: Iterable[Path]) -> Tuple[Path, ...]:
    """The folders that sys.path names for these modules: beside a package rather than in it."""
    found: Dict[Path, None] = {}
    for file in files:
        folder = file.parent
        while (folder / "__init__.py").is_file():
            folder = folder.parent
        found.update({folder: None, file.parent: None})
    return tuple(found)


# ------------------------------------------------------------------------------------ what cannot be read


def is_shell(script: Path) -> bool:
    """Whether bash reads it."""
    first = bytes_of(script)[:80].split(b"\n")[0]
    says_so = script.suffix != ".py" and re.match(rb"#!.*\b(ba|da)?sh\b", first)
    return script.suffix in (".sh", ".bash") or bool(says_so)


def version_of(text: Optional[str]) -> Tuple[int, ...]:
    """`3.12` → (3, 12); nothing for what is no version."""
    return tuple(map(int, text.split("."))) if text and re.fullmatch(r"\d+(\.\d+)*", text) else ()


def problems_in(
    scripts: Iterable[Path], phase_folder: Path, inputs: Sequence[Path], python: Optional[str]
) -> Tuple[Tuple[str, str], ...]:
    """What keeps the scripts, or a module of the phase behind them, from being read by the machine's Python.

    `python` is its version, None for ours. Each is a file, from the phase's folder, and `line 3: …`.
    """
    there = version_of(python) or sys.version_info[:2]
    found: Dict[Tuple[str, str], None] = {}
    for script in (script for script in scripts if script.is_file() and not is_shell(script)):
        files = [file for file, statement, _, _ in reached(script, phase_folder, inputs) if not statement]
        for file in (file for file in files if file.is_file()):
            name = os.path.relpath(str(file), str(phase_folder))
            found.update({(name, problem): None for problem in file_problems(file, there)})
        name = os.path.relpath(str(script), str(phase_folder))
        found.update({(name, problem): None for problem in block_problems(script, there)})
    return tuple(found)


def file_problems(file: Path, there: Tuple[int, ...]) -> Iterator[str]:
    """`line 3: …` for what the machine's Python cannot read."""
    source = bytes_of(file)
    tree = parsed(source)
    if isinstance(tree, SyntaxError):
        if not is_newer(tree, source, there):
            yield f"line {tree.lineno or 1}: {tree.msg}"
    elif there[:2] < sys.version_info[:2]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(source, feature_version=(there[0], there[1]) if len(there) > 1 else (3, 8))
        except SyntaxError as error:
            yield f"line {error.lineno or 1}: newer than the machine's Python {dotted(there)}: {error.msg}"
        except ValueError:
            return  # a Python that ours knows nothing of


def newer_than_ours(
    scripts: Iterable[Path], phase_folder: Path, inputs: Sequence[Path], python: Optional[str]
) -> Tuple[str, ...]:
    """The files that only the machine's newer Python can read: nothing behind them is tried here."""
    there = version_of(python)
    files = {
        file: parsed(bytes_of(file))
        for script in scripts
        if not is_shell(script)
        for file, statement, _, _ in reached(script, phase_folder, inputs)
        if not statement
    }
    return tuple(
        os.path.relpath(str(file), str(phase_folder))
        for file, tree in files.items()
        if isinstance(tree, SyntaxError) and is_newer(tree, bytes_of(file), there)
    )


def is_newer(error: SyntaxError, source: bytes, there: Tuple[int, ...]) -> bool:
    """Whether what our Python cannot read may be what the machine's newer one can."""
    lines = source_text(source).split("\n")
    line = lines[error.lineno - 1] if error.lineno and error.lineno <= len(lines) else ""
    return any(sys.version_info[:2] < since <= there[:2] and sign.search(line) for since, sign in NEWER)


def block_problems(script: Path, there: Tuple[int, ...]) -> Iterator[str]:
    """`line 2: …` for a PEP 723 block that is no TOML, or that wants another Python."""
    text = source_text(bytes_of(script))
    block = BLOCK.search(text)
    if block is None:
        return
    first = text[: block.start("content")].count("\n") + 1
    lines = [line[2:] if line.startswith("# ") else line[1:] for line in block["content"].splitlines(True)]
    try:
        import tomllib

        tomllib.loads("".join(lines))
    except ImportError:
        pass  # before Python 3.11
    except ValueError as error:
        yield f"line {first}: its `# /// script` block is no TOML: {error}"
        return
    for number, line in enumerate(lines, first):
        wanted = re.match(r"""\s*requires-python\s*=\s*["']([^"']*)["']""", line)
        if wanted and not allows(wanted[1], there):
            yield f"line {number}: requires-python {wanted[1]}, and the machine has Python {dotted(there)}"


def dotted(version: Iterable[int]) -> str:
    """(3, 12) → 3.12."""
    return ".".join(map(str, version))


def allows(specifiers: str, there: Tuple[int, ...]) -> bool:
    """Whether a Python of this version may fit, as PEP 440 compares; what it leaves open may."""
    return all(one_allows(text.strip(), there) for text in specifiers.split(",") if text.strip())


def one_allows(text: str, there: Tuple[int, ...]) -> bool:
    """One of them. Of `>=3.12.4` and a machine of which 3.12 is all that is known the first two count."""
    match = re.fullmatch(r"(~=|===?|!=|<=|>=|<|>)?\s*(\d+(?:\.\d+)*)(\.\*)?\S*", text)
    if match is None:
        return True  # not ours to judge
    sign, number = match[1] or "==", version_of(match[2])
    ours, asked = there[: len(number)], number[: len(there)]
    if sign == "~=":
        return ours >= asked and ours[: len(number) - 1] == asked[: len(number) - 1]
    if ours != asked:
        return sign == "!=" or (sign[0] == "<" and ours < asked) or (sign[0] == ">" and ours > asked)
    if sign in ("<", "!="):
        return len(number) > len(there)
    return sign != ">" or len(number) != len(there) or len(there) < 3


# ------------------------------------------------------------------------------------ a layer at work


class Failed(Exception):
    """What was checked does not hold; its text is the last that the log says, if it has one."""


class Stopped(Exception):
    """A signal asked us to end."""


@dataclass(frozen=True)
class Said:
    """What a tool answered."""

    code: int
    out: str
    err: str


class Trial:
    """One layer of one preflight; every path is relative to the root, where it runs, or absolute."""

    def __init__(self, options: argparse.Namespace, tool: List[str], asked: List[str]) -> None:
        self.options, self.tool, self.asked = options, tool, asked
        self.root = Path.cwd()
        self.uv = os.path.abspath(options.uv)
        self.signal = 0
        self.child: "Optional[subprocess.Popen[bytes]]" = None
        self.log = -1
        self.shown = 0
        self.work = Path()
        for name in NOT_FOR_TOOLS:
            os.environ.pop(name, None)

    def carry_out(self, layer: "Callable[[Trial], None]") -> int:
        """The layer's exit code; when it is not 0 nothing of the preflight is left but its log."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.hear)
        code = 0
        try:
            self.open_log()
            self.work = self.work_folder()
            layer(self)
        except Stopped:
            code = 128 + self.signal
        except Failed as error:
            code = NOT_HOLDING
            self.say(str(error))
        except OSError as error:
            code = NOT_HOLDING
            self.say(f"error: {error}")
        if code or self.signal:
            code = code or 128 + self.signal
            if self.work.name:
                self.remove(self.work)
        self.show()
        return code

    def hear(self, number: int, _: object) -> None:
        """The first signal counts. The tool is told; whoever waits for it sees to the rest."""
        self.signal = self.signal or number
        self.tell_child(signal.SIGTERM)

    def tell_child(self, how: int) -> None:
        """A signal for the tool and all that it started: they have a session of their own."""
        if self.child is not None:
            try:
                os.killpg(self.child.pid, how)
            except (ProcessLookupError, PermissionError):
                pass

    def work_folder(self) -> Path:
        """The throw-away folder: `fractal-preflight-<process id>` in uv's cache."""
        said = self.ask([self.uv, "cache", "dir"])
        cache = said.out.rstrip("\n")
        if said.code or not os.path.isabs(cache):
            raise Failed(f"uv does not say where its cache is: {said.err}")
        return Path(cache) / f"fractal-preflight-{self.options.run}"

    @property
    def code(self) -> Path:
        """The phase's files in it."""
        return self.work / "code" if self.options.cloned else self.work / "code" / self.options.folder

    @property
    def scripts(self) -> List[Path]:
        """The scripts of the phase's jobs."""
        return [self.code / words[0] for words in self.options.script]

    @property
    def inputs(self) -> Tuple[Path, ...]:
        """The folders of the modules of other phases that came along."""
        top = self.work / "code"
        return module_folders(input_modules(top, self.code, self.options.input))

    # -------------------------------------------------------------------------------- words

    def open_log(self) -> None:
        """All words go to the log, and from there to whoever looks on."""
        path = f"{self.options.record}.log"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        self.shown = self.log_size()

    def log_size(self) -> int:
        """How long the log is by now."""
        return os.fstat(self.log).st_size

    def log_since(self, start: int) -> bytes:
        """What came behind this byte."""
        return os.pread(self.log, max(0, self.log_size() - start), start)

    def say(self, text: str) -> None:
        """A line of ours."""
        if text and self.log >= 0:
            os.write(self.log, text.encode(errors="surrogateescape") + b"\n")

    def show(self) -> None:
        """Copy what came since to whoever looks on."""
        if self.log < 0:
            return
        said = self.log_since(self.shown)
        self.shown += len(said)
        try:
            sys.stdout.buffer.write(said)
            sys.stdout.flush()
        except OSError:
            pass  # nobody does any longer

    # -------------------------------------------------------------------------------- tools

    def run(
        self,
        words: Sequence[str],
        *,
        given: str = "",
        out: Any = None,
        err: Any = None,
        env: Optional[Dict[str, str]] = None,
        cwd: Optional[Path] = None,
        limit_s: Optional[float] = None,
    ) -> int:
        """The tool's exit code, TIMED_OUT when it took too long. What it prints is in the log."""
        self.ask_whether_stopped()
        log = self.log if self.log >= 0 else None
        with tempfile.TemporaryFile() as stdin:
            stdin.write(given.encode(errors="surrogateescape"))
            stdin.seek(0)
            self.child = subprocess.Popen(
                list(words),
                stdin=stdin,
                stdout=log if out is None else out,
                stderr=log if err is None else err,
                env=env,
                cwd=None if cwd is None else str(cwd),
                start_new_session=True,
            )
        code = self.wait(self.child, limit_s)
        if limit_s:
            self.tell_child(signal.SIGKILL)  # what a script left behind goes as well
        self.child = None
        self.ask_whether_stopped()
        return code

    def wait(self, child: "subprocess.Popen[bytes]", limit_s: Optional[float]) -> int:
        """Until it ended, was stopped or is too late: TERM then, and KILL for what is left."""
        end = time.monotonic() + limit_s if limit_s else float("inf")
        while not self.signal and time.monotonic() < end:
            try:
                return child.wait(0.05)
            except subprocess.TimeoutExpired:
                self.show()
        end = time.monotonic() + GRACE_S
        while child.poll() is None and time.monotonic() < end:
            self.tell_child(signal.SIGTERM)  # again: one that comes before its exec is lost
            time.sleep(0.05)
        self.tell_child(signal.SIGKILL)
        child.wait()
        return TIMED_OUT

    def ask_whether_stopped(self) -> None:
        """Stopped when a signal came."""
        if self.signal:
            raise Stopped

    def ask(self, words: Sequence[str], given: str = "", env: Optional[Dict[str, str]] = None) -> Said:
        """What the tool says, which is not for the log. A tool that is not there has the exit code 127."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                code = self.run(words, given=given, out=out, err=err, env=env)
            except FileNotFoundError as error:
                return Said(127, "", str(error))
            out.seek(0)
            err.seek(0)
            return Said(code, os.fsdecode(out.read()), os.fsdecode(err.read()).strip())

    def remove(self, folder: Path) -> bool:
        """Whether it is gone, also when a tool that was killed is still writing its last file."""
        for pause in (0, 0.2, 0.5, 1, 1):
            time.sleep(pause)
            shutil.rmtree(str(folder), ignore_errors=True)
            if not os.path.lexists(str(folder)):
                return True
        return False


# ------------------------------------------------------------------------------------ code


def code_layer(trial: Trial) -> None:
    """The phase's files in a new folder, every script of them read."""
    trial.say(f"--- preflight of {Path(trial.options.folder).name}")
    sweep(trial)
    trial.remove(trial.work)
    for name in ("code", "home", "tmp"):
        (trial.work / name).mkdir(parents=True)
    (clone if trial.options.cloned else copy)(trial)
    read(trial)


def sweep(trial: Trial) -> None:
    """The folders of preflights whose process is no longer alive go."""
    for old in trial.work.parent.glob("fractal-preflight-*"):
        try:
            os.kill(int(old.name.rpartition("-")[2]), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            trial.remove(old)
        except PermissionError:
            pass  # alive, and another user's


def copy(trial: Trial) -> None:
    """The files that git would carry, submodules refused; outside git the small ones. Links are followed."""
    for name in carried(trial):
        trial.ask_whether_stopped()
        parts = Path(name).parts
        if os.path.isfile(name) and not {".venv", "__pycache__"} & set(parts):
            copy_file(Path(name), trial.work / "code" / name)
    folder = trial.root / trial.options.folder
    for module in input_modules(trial.root, folder, trial.options.input):
        if trial.root in module.parents:
            copy_file(module, trial.work / "code" / module.relative_to(trial.root))


def copy_file(source: Path, target: Path) -> None:
    """With the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(str(source), str(target))


def carried(trial: Trial) -> List[str]:
    """What `git ls-files` lists; outside git, all but large files and environments."""
    folder = trial.options.folder
    git = [trial.tool[0], "--no-optional-locks", "--literal-pathspecs"]
    env = {**os.environ, "LC_ALL": "C"}
    staged = trial.ask([*git, "ls-files", "-s", "--", folder], env=env)
    submodules = [line for line in staged.out.splitlines() if line.startswith("160000")]
    if submodules:
        raise Failed("submodules are not pushed: " + "\n".join(submodules))
    listed = trial.ask([*git, *trial.tool[1:], "-z", "--", folder], env=env)
    if listed.code == 0:
        return [name for name in listed.out.split("\0") if name]
    if listed.code != 127 and "not a git repository" not in listed.err:
        raise Failed(f"git cannot say which files are the phase's: {listed.err}")
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != ".venv"]
        paths = [os.path.join(at, name) for name in names]
        found += [path for path in paths if os.path.isfile(path) and os.path.getsize(path) < SMALL]
    return found


def clone(trial: Trial) -> None:
    """A fresh clone at the ref, with submodules."""
    os.environ["GIT_TERMINAL_PROMPT"] = "0"
    code = str(trial.work / "code")
    git = [trial.tool[0], "-C", code]
    for words in (
        [*trial.tool[:2], "--quiet", "--no-checkout", "--", *trial.tool[2:], code],
        [*git, "checkout", "--quiet", trial.options.ref, "--"],
        [*git, "submodule", "--quiet", "update", "--init", "--recursive"],
    ):
        if trial.run(words):
            raise Failed


def read(trial: Trial) -> None:
    """Every script is there, and the machine's Python (or bash) can read it."""
    options, above = trial.options, "" if trial.options.cloned else trial.options.folder
    found = [
        (words[0], "is not among the phase's files: git ignores it, or it is not there")
        for words, script in zip(options.script, trial.scripts)
        if not script.is_file()
    ]
    found += problems_in(trial.scripts, trial.code, trial.inputs, options.python)
    for words, script in zip(options.script, trial.scripts):
        if script.is_file() and is_shell(script):
            said = trial.ask(["bash", "-n", str(script)])
            first = said.err.split("\n")[0].replace(f"{script}: ", "", 1)
            found += [(words[0], first)] if said.code else []
    for name, problem in found:
        trial.say(f"unreadable: {os.path.normpath(os.path.join(above, name))}: {problem}")
    if found:
        raise Failed


# ------------------------------------------------------------------------------------ resolve


def resolve_layer(trial: Trial) -> None:
    """The lock for the machine, if all of it can be had there; the pins of an earlier one are kept."""
    lock, new = Path(trial.options.lock), trial.work / "lock.txt"
    lock.parent.mkdir(parents=True, exist_ok=True)
    if lock.is_file():
        shutil.copyfile(str(lock), str(new))
    if compile_set(trial, ["--generate-hashes", *trial.tool[3:]], new):
        raise Failed
    locked = portable(trial, new.read_text())
    if not trial.options.local:
        check_wheels(trial, locked)
        find_newest(trial)
    fresh = Path(f"{lock}.new")
    fresh.write_text(locked)
    fresh.replace(lock)


def compile_set(trial: Trial, options: Sequence[str], to: Path) -> int:
    """uv's resolver over what is asked for by name, requirements.txt and the project's own."""
    files, _ = requirement_files(trial.code)
    for file in files:
        if Path(file).name == "requirements.txt":
            anchor_paths(Path(file), set())
    uv = [trial.uv, "pip", "compile", "-", *files, "--no-header", "--no-annotate", "--no-python-downloads"]
    overrides = [*trial.options.override, *(f"{name}; {NEVER}" for name in trial.options.never)]
    if overrides:
        lines = trial.work / "overrides.txt"
        lines.write_text("".join(f"{line}\n" for line in overrides))
        uv += ["--override", str(lines)]
    given = "".join(f"{line}\n" for line in trial.asked)
    return trial.run([*uv, *options, "-o", str(to)], given=given, out=subprocess.DEVNULL)


def requirement_files(code: Path) -> Tuple[List[str], Optional[str]]:
    """What uv reads requirements from, and the one that makes the folder a package.

    A pyproject.toml that only configures tools is no project.
    """
    files = [str(code / "requirements.txt")] if (code / "requirements.txt").is_file() else []
    for name in PROJECT_FILES:
        text = source_text(bytes_of(code / name))
        is_project = name != "pyproject.toml" or re.search(r"(?m)^\[(project|build-system)\]", text)
        if (code / name).is_file() and is_project:
            return [*files, str(code / name)], str(code / name)
    return files, None


def anchor_paths(file: Path, seen: "set[Path]") -> None:
    """Make relative paths in our copy of a requirements.txt absolute: they are meant from its folder.

    uv (0.13) takes them from the current one, but for files that it includes, which are read here too.
    """
    if file in seen or not file.is_file():
        return
    seen.add(file)
    lines = source_text(bytes_of(file)).split("\n")
    file.write_text("\n".join(anchored(line, file.parent) for line in lines))
    for line in lines:
        included = re.match(r"\s*(?:-r|--requirement)(?:\s+|=)?(\S+)", line)
        if included and "://" not in included[1]:
            anchor_paths(Path(os.path.normpath(str(file.parent / included[1]))), seen)


def anchored(line: str, folder: Path) -> str:
    """`-e ./lib[train]` → `-e file:///…/lib[train]`; any other line as it is."""
    match = re.match(
        r"(?P<before>\s*(?:(?:-e|--editable|-f|--find-links)(?:\s+|=\s*)|[\w.-]+(?:\[[^\]]*\])?\s*@\s*)?)"
        r"(?:file:(?!/))?(?P<path>[^\s\[;#:@=~<>!-][^\s\[;#:@=~<>!]*)(?P<after>(?!:).*)$",
        line,
    )
    if match is None or os.path.isabs(match["path"]):
        return line  # an option, an address, an absolute path
    is_bare = not match["before"].strip() and not match["path"].startswith(".")
    if is_bare and "/" not in match["path"] and not match["path"].endswith((".whl", ".tar.gz", ".zip")):
        return line  # the name of a package
    path = Path(os.path.normpath(str(folder / match["path"])))
    return f"{match['before']}{path.as_uri()}{match['after']}" if path.exists() else line


def portable(trial: Trial, locked: str) -> str:
    """The lock without paths of this machine: those of the phase are relative to the root, as they are there.

    The phase's own package is no line of it: that is installed from its folder. Any other path is refused.
    """
    kept, own = [], []
    for line in locked.splitlines():
        match = re.match(
            r"(?P<before>-e |[\w.-]+(?:\[[^\]]*\])? @ |)(?P<path>(?:file:|[./])[^\s\[;]*)(?P<after>.*)", line
        )
        if match is None:
            kept.append(line)
            continue
        path = Path(os.path.normpath(unquote(re.sub(r"^file:(//)?", "", match["path"]))))
        if path == trial.code:
            continue
        if trial.code not in path.parents:
            own.append(line.replace("-e ", "", 1))
            continue
        below = path.relative_to(trial.code).as_posix()
        kept.append(f"{match['before']}./{trial.options.folder}/{below}{match['after']}")
    if own:
        raise Failed("\n".join([*own, "a file of this machine"]))
    return "".join(f"{line}\n" for line in kept)


def check_wheels(trial: Trial, locked: str) -> None:
    """What has no wheel there is fine when it has none here either: then building it is tested here.

    A package with a wheel here and none there would be compiled on the machine, or not at all.
    """
    uv = [
        trial.uv,
        "pip",
        "compile",
        "-",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-python-downloads",
        "-q",
    ]
    here = ["--python", python_of(trial.tool)]
    pins = pins_in(locked)
    while True:
        said = trial.ask([*uv, *trial.tool[3:]], given="".join(f"{pin}\n" for pin in pins))
        if said.code == 0:
            return
        named = re.search(r".*ecause ([A-Za-z0-9._-]+==\S+) has no .*wheels", " ".join(said.err.split()))
        pin = named[1] if named else ""
        rest = [line for line in pins if normal_pin(line) != normal_pin(pin)]
        if len(rest) == len(pins):
            trial.say(said.err)
            return
        if normal_pin(pin).partition("==")[0] not in trial.options.builds:
            if trial.ask([*uv, *here], given=pin).code == 0:
                raise Failed(f"no wheel: {pin}")
            trial.say(f"from source: {pin}")
        pins = rest


def python_of(words: List[str]) -> str:
    """The Python of this machine that builds what has no wheel."""
    return words[words.index("--python") + 1]


def pins_in(locked: str) -> List[str]:
    """`name==version` of each line that has one."""
    return re.findall(r"(?m)^[A-Za-z0-9][^ ;\\\n]*==[^ ;\\\n]+", locked)


def normal_pin(pin: str) -> str:
    """With the name as indexes spell it, and without extras."""
    name, _, version = re.sub(r"\[.*?\]", "", pin).partition("==")
    return f"{normal(name)}=={version}"


def normal(name: str) -> str:
    """The name of a package as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_newest(trial: Trial) -> None:
    """The newest versions of what has no lower bound, to see how far below them the lock is."""
    if not trial.options.newest:
        return
    uv = [trial.uv, "pip", "compile", "-", "--no-deps", "-q", "--no-header", "--no-annotate"]
    said = trial.ask(
        [*uv, "--no-python-downloads", *trial.tool[3:]],
        given="".join(f"{name}\n" for name in trial.options.newest),
    )
    Path(f"{trial.options.record}.newest").write_text("" if said.code else said.out)


# ------------------------------------------------------------------------------------ install


def install_layer(trial: Trial) -> None:
    """The same set for a CPU: the lock's versions wherever they can be had, in a new environment."""
    venv, cpu = str(trial.work / "venv"), trial.work / "cpu.txt"
    options = trial.tool[3:]
    python = trial.options.python or sys.executable
    if trial.run([trial.uv, "venv", "--quiet", "--python", python, venv]):
        raise Failed
    pins = pins_in(Path(trial.options.lock).read_text())
    pins = [pin for pin in pins if normal(pin.partition("==")[0]) not in trial.options.unlocked]
    cpu.write_text("".join(f"{pin}\n" for pin in pins))
    if compile_set(trial, ["--quiet", "--python", venv, *options], cpu):
        raise Failed
    install = [trial.uv, "pip", "install", "--python", venv, "--no-deps"]
    if trial.run([*install, *options, "-r", str(cpu)]):
        raise Failed
    _, project = requirement_files(trial.code)
    if project and trial.run([*install, "-e", str(trial.code)]):
        raise Failed


# ------------------------------------------------------------------------------------ import


def import_layer(trial: Trial) -> None:
    """Every import, then every --help; with a home and a temporary folder that are thrown away too."""
    lines = imports_of(trial)
    before = trial.log_size()
    words = ["python", os.path.abspath(__file__), "try", *lines]
    if lines and trial.run(words, env=scripts_env(trial), cwd=trial.work / "home", limit_s=IMPORT_LIMIT_S):
        tell_sibling(trial, before)
        raise Failed
    for script, *env in trial.options.script:
        path = trial.code / script
        found = script_imports(path, trial.code, trial.inputs)
        if has_parser(bytes_of(path)) and not any(is_left_out(trial, line) for line in found.top):
            ask_for_help(trial, script, env)


def imports_of(trial: Trial) -> List[str]:
    """The statements to try, but for packages left out here; one behind a `?` stands in a function."""
    top: Dict[str, None] = {}
    inner: Dict[str, None] = {}
    for script in trial.scripts:
        found = script_imports(script, trial.code, trial.inputs)
        top.update(dict.fromkeys(found.top))
        inner.update(dict.fromkeys(found.inner))
    top.update(dict.fromkeys(f"import {module}" for module in trial.options.module))
    lines = [*top, *(f"?{line}" for line in inner if line not in top)]
    return [line for line in lines if not is_left_out(trial, line)]


def is_left_out(trial: Trial, statement: str) -> bool:
    """Whether it imports a package that has no stand-in on a CPU."""
    return normal(imported_module(statement).partition(".")[0]) in trial.options.without


def scripts_env(trial: Trial, more: Sequence[str] = ()) -> Dict[str, str]:
    """The environment of the phase's code: the new packages, and no folder of the person's."""
    env = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SCRIPTS}
    home = str(trial.work / "home")
    env.update({"HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home})
    env["TMPDIR"] = str(trial.work / "tmp")
    env["PATH"] = f"{trial.work / 'venv/bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    env.update({name: value for name, _, value in (word.partition("=") for word in more)})
    return env


def ask_for_help(trial: Trial, script: str, env: Sequence[str]) -> None:
    """One script's --help within its time, with the job's environment and none of its arguments."""
    shown = script if trial.options.cloned else f"{trial.options.folder}/{script}"
    trial.say(f"help: {shown}")
    before = trial.log_size()
    code = trial.run(
        ["python", shown, "--help"],
        out=subprocess.DEVNULL,
        env=scripts_env(trial, ["PYTHONUNBUFFERED=1", *env]),
        cwd=trial.work / "code",
        limit_s=HELP_LIMIT_S,
    )
    if code == TIMED_OUT:
        raise Failed(f"no end: {shown} --help")
    if code:
        tell_sibling(trial, before)
        raise Failed


def tell_sibling(trial: Trial, since: int) -> None:
    """Where a module that is missing lies in a sibling phase, and the phase's code reaches by sys.path."""
    missing = re.findall(rb"No module named '([^'.]+)", trial.log_since(since))
    sources = list(trial.code.rglob("*.py"))
    if trial.options.cloned or not missing or not any(b"sys.path" in bytes_of(path) for path in sources):
        return
    name = missing[-1].decode()
    own = trial.root / trial.options.folder
    said = b"".join(map(bytes_of, sources))
    found = [
        path
        for sibling in sorted(own.parent.iterdir())
        if sibling != own and sibling.is_dir()
        for folder in (sibling, *sorted(path for path in sibling.iterdir() if path.is_dir()))
        for path in (folder / f"{name}.py", folder / name / "__init__.py")
        if path.is_file()
    ]
    found.sort(key=lambda path: path.relative_to(own.parent).parts[0].encode() not in said)
    if found:
        file = found[0].parent if found[0].name == "__init__.py" else found[0]
        trial.say(f"sibling: {name} {os.path.relpath(str(file), str(own))}")


def try_imports(lines: Sequence[str]) -> int:
    """Run import statements one by one, in the Python of the new environment.

    One behind a `?` stands in a function, which this job may never call: that its package is missing is told,
    that its package is broken is a failure.
    """
    sys.path[0] = ""  # ours is not among what can be imported
    for line in lines:
        statement, module = line.lstrip("?"), line.split()[1]
        print("import:", statement, flush=True)
        try:
            exec(statement, {})
        except ModuleNotFoundError as error:
            if line == statement or error.name != module.split(".")[0]:
                raise
            print("not installed:", statement, flush=True)
    return 0


# ------------------------------------------------------------------------------------ remember, clean


def remember_layer(trial: Trial) -> None:
    """The record, whole or not at all."""
    options = trial.options
    commit = ""
    if options.cloned:
        commit = trial.ask(["git", "-C", str(trial.code), "rev-parse", "HEAD"]).out
    record = {
        "passed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "lock_sha256": hashlib.sha256(Path(options.lock).read_bytes()).hexdigest(),
        "source_commit": commit.strip(),
        "phase": Path(options.folder).name,
        "platform": options.platform,
        "python": options.python,
    }
    new = Path(f"{options.record}.json.new")
    new.write_text(json.dumps(record) + "\n")
    new.replace(f"{options.record}.json")


def clean(trial: Trial) -> int:
    """No throw-away folder, whatever happened."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return 0 if trial.remove(trial.work_folder()) else NOT_CLEAN


LAYERS: "Dict[str, Callable[[Trial], None]]" = {
    "code": code_layer,
    "resolve": resolve_layer,
    "install": install_layer,
    "import": import_layer,
    "remember": remember_layer,
}


def parser() -> argparse.ArgumentParser:
    """Ours alone: what stands behind `--` is the tool's."""
    whole = argparse.ArgumentParser(prog="trial.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    layer = whole.add_argument
    layer("layer", choices=[*LAYERS, "clean"])
    layer("folder", nargs="?", default=".", help="the phase's, from the root, which is the current folder")
    layer("--run", required=True, type=int, metavar="PID", help="whose preflight it is")
    layer("--uv", required=True, help="the uv that runs us")
    layer("--record", help="where the log and the pass are kept, without their endings")
    layer("--lock", help="the lock, or where it will be")
    layer("--cloned", action="store_true", help="the code is phase.source, not this folder")
    layer("--ref", help="of phase.source")
    layer("--script", nargs="+", action="append", default=[], metavar="WORD", help="a script, NAME=VALUE…")
    layer("--input", action="append", default=[], help="a module, or a folder of them, of another phase")
    layer("--local", action="store_true", help="the lock is for this machine")
    layer("--python", help="code, remember: the machine's; install: the one to try with, else ours")
    layer("--platform", help="the machine's")
    layer("--override", action="append", default=[], metavar="LINE", help="a requirement that overrides")
    layer("--never", type=listed, default=[], help="what is installed nowhere, whatever asks for it")
    layer("--builds", type=listed, default=[], help="what may be compiled on the machine")
    layer("--newest", type=listed, default=[], help="what has no lower bound")
    layer("--unlocked", type=listed, default=[], help="what has not the lock's version here")
    layer("--without", type=listed, default=[], help="what is left out here, and its imports")
    layer("--module", action="append", default=[], help="imported besides what the scripts import")
    return whole


def listed(names: str) -> List[str]:
    """`a,b` → a, b."""
    return names.split(",")


def split(words: List[str]) -> Tuple[List[str], List[str], List[str]]:
    """Our words, the tool's, and what it is asked for: each behind a `--`."""
    parts: List[List[str]] = [[]]
    for word in words:
        if word == "--" and len(parts) < 3:
            parts.append([])
        else:
            parts[-1].append(word)
    ours, tool, asked = (*parts, [], [])[:3]
    return ours, tool, asked


def main(words: List[str]) -> int:
    if words[:1] == ["try"]:
        return try_imports(words[1:])
    ours, tool, asked = split(words)
    options = parser().parse_args(ours)
    trial = Trial(options, tool, asked)
    return clean(trial) if options.layer == "clean" else trial.carry_out(LAYERS[options.layer])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Showing is the default: without `confirm` nothing is written, no process but git starts, no socket."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import CHECKOUT, PYTHON, Done, Lab, run_runner, runner_env

OUTPUTS = ("text", "json", "script")
# System calls that change what a file system holds, whatever their arguments.
CHANGES = re.compile(
    r"\b(mkdir|mkdirat|rmdir|unlink|unlinkat|rename|renameat|renameat2|link|linkat|symlink|symlinkat|mknod"
    r"|mknodat|truncate|chmod|fchmodat|chown|lchown|fchownat|utime|utimes|utimensat|setxattr|creat)\("
)
OPENS = re.compile(r"\bopen(?:at)?\(.*O_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND)")
HARMLESS = re.compile(r'"/dev/(?:null|tty)"')


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """The runner as `make` leaves it: Python writes bytecode before any of our code could forbid it."""
    subprocess.run([PYTHON, "-m", "compileall", "-q", str(CHECKOUT / "runner")], check=True)


class Trace:
    """What one command asked of the kernel."""

    def __init__(self, file: Path) -> None:
        lines = file.read_text(errors="replace").splitlines()
        self.calls = [line for line in lines if not re.search(r"= -1 E|\+\+\+ |--- ", line)]

    @property
    def changes(self) -> list[str]:
        """Files created, written or removed."""
        return [
            line
            for line in self.calls
            if (CHANGES.search(line) or OPENS.search(line)) and not HARMLESS.search(line)
        ]

    @property
    def sockets(self) -> list[str]:
        """Sockets opened."""
        return [line for line in self.calls if re.search(r"\b(socket|socketpair|connect|bind)\(", line)]

    @property
    def programs(self) -> list[str]:
        """The programs started, by name, the first one left out."""
        found = [re.search(r'\bexecve\("([^"]*)"', line) for line in self.calls]
        return [Path(match[1]).name for match in found if match][1:]


def traced(tmp_path: Path, home: Path, *args: str) -> tuple[Trace, Done]:
    """The runner under strace."""
    strace = shutil.which("strace")
    assert strace, "strace is missing: tests/install-debian-packages installs it"
    file = tmp_path / "trace"
    trace = "trace=%file,%network,execve,execveat,ftruncate,fchmod,fchown"
    command = (strace, "-f", "-qq", "-s", "300", "-e", trace, "-e", "signal=none", "-o", str(file), PYTHON)
    done = run_runner(*args, cwd=tmp_path, env=runner_env(home), python=command)
    return Trace(file), done


def in_git(folder: Path) -> None:
    """Make a repository of a folder, with one commit."""
    git = ("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "all of it")):
        subprocess.run([*git, *words], check=True)


def assert_pure(trace: Trace, done: Done) -> None:
    assert done.exit_code == 0, done
    assert trace.changes == []
    assert trace.sockets == []
    assert set(trace.programs) <= {"git"}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("action", ["train", "setup"])
def test_a_plan_is_only_shown(
    action: str, output: str, research_log: Lab, tmp_path: Path, home: Path
) -> None:
    research_log.add_phase(deps=["numpy"])
    in_git(research_log.root)
    (research_log.log / "phase1-test/train.py").write_text("changed")
    trace, done = traced(
        tmp_path, home, "phase=phase1", f"action={action}", f"output={output}", *research_log.args
    )
    assert_pure(trace, done)
    if action == "train":
        assert trace.programs


@pytest.mark.parametrize("output", ["text", "json"])
def test_discover_only_looks(output: str, research_log: Lab, tmp_path: Path, home: Path) -> None:
    research_log.add_phase()
    assert_pure(*traced(tmp_path, home, f"output={output}", *research_log.args))


@pytest.mark.parametrize(
    "args",
    [
        ("phase=phase11", "action=train"),
        ("phase=phase12", "action=train", "instance=local"),
        ("-m", "phase=phase12", "action=generate", "generation.n=1,4"),
    ],
)
def test_the_phases_that_ship_are_only_shown(args: tuple[str, ...], tmp_path: Path, home: Path) -> None:
    assert_pure(*traced(tmp_path, home, *args, f"paths.state={tmp_path / '.runner'}"))


@pytest.mark.parametrize("words", [("confirm=p000000000000",), ("action=nothing",), ("batch_size=0",)])
def test_a_refusal_changes_nothing(
    words: tuple[str, ...], research_log: Lab, tmp_path: Path, home: Path
) -> None:
    research_log.add_phase()
    trace, done = traced(tmp_path, home, "phase=phase1", "action=train", *words, *research_log.args)
    assert done.exit_code in (64, 77), done
    assert (trace.changes, trace.sockets) == ([], [])


def test_the_trace_sees_what_a_confirmed_plan_does(research_log: Lab, tmp_path: Path, home: Path) -> None:
    research_log.add_phase()
    trace, done = traced(tmp_path, home, "phase=phase1", "action=train", "confirm=true", *research_log.args)
    assert done.exit_code == 0, done
    assert any("0001-train" in line for line in trace.changes)
    assert {"bash", "python"} <= set(trace.programs)

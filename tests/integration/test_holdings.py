"""What a machine says that it holds: the shim itself, asked as a user who may not read everything."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.machines.probe import MachineContents, ask_contents, is_here, states
from runner.plan.command import SHIM, Command, sh
from runner.research_log.runs import RunState
from runner.shim import BEGIN
from runner.world.world import Result

NOBODY = 65534
PHASE = "research-log/phase1-it's a $(test)\n李明"


@dataclass
class Place:
    """The root of jobs on a machine."""

    root: Path
    home: str = "/nonexistent"

    def file(self, name: str, text: str = "x") -> Path:
        """A file there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, folder: str, artifacts: str = "") -> Path:
        """A run that ended, and what it has to bring home."""
        for name, text in (("token", "t"), ("exit_code", "0\n"), ("lock", ""), ("artifacts", artifacts)):
            self.file(f"{folder}/{name}", text)
        return self.root / folder

    def ask(self, only_stamps: bool = False) -> MachineContents | None:
        """What it says; asked as its user, who is not root."""

        def question(*words: str) -> Command:
            return sh("/usr/bin/python3", "-", "--root", str(self.root)[1:], *words)  # from /

        asked = ask_contents(question, "env", only_stamps)
        assert isinstance(asked.ask, Command)
        is_root = os.geteuid() == 0
        if is_root and self.root.exists():
            subprocess.run(["chown", "-Rh", "--from=0", str(NOBODY), str(self.root)], check=True)
        done = subprocess.run(
            asked.ask.argv,
            capture_output=True,
            user=NOBODY if is_root else None,
            input=SHIM.read_bytes(),
            cwd="/",
            env={"HOME": self.home, "PATH": os.environ["PATH"]},
        )
        return asked.read(Result(done.returncode, done.stdout, done.stderr))

    def files(self) -> dict[str, str]:
        """Path → checksum, or what is the matter."""
        held = self.ask()
        assert held is not None
        return {file.path: file.checksum for file in held.files}


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder, "root")
        root.mkdir()
        yield Place(root)
        subprocess.run(["chmod", "-R", "u+rwX", str(root)], check=True)


def test_runs_and_what_they_made_are_found_under_any_name(place: Place) -> None:
    place.run(f"{PHASE}/runs/0001-train", "out/\0gone\0")
    place.file(f"{PHASE}/out/a\nb", "weights")
    held = place.ask()
    assert held is not None and [run.folder for run in held.runs] == [f"{PHASE}/runs/0001-train"]
    (file,) = held.files
    assert file.path == f"{PHASE}/out/a\nb" and is_here(file, place.root)


@pytest.mark.parametrize("folder", ["experiments/runs/0001-run", "experiments/phase1-x/runs/0001-train"])
def test_runs_of_another_research_log_are_found(place: Place, folder: str) -> None:
    run = place.run(folder, "ck\0")
    place.file(str(Path(folder).parent.parent / "ck/a.pt"))
    with (run / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = place.ask()
    assert held is not None
    assert [(run.folder, run.status.state) for run in held.runs] == [(folder, RunState.RUNNING)]
    assert [file.path for file in held.files] == [str(Path(folder).parent.parent / "ck/a.pt")]


def test_what_a_run_left_in_a_hidden_folder_is_something_it_left(place: Place) -> None:
    place.run(f"{PHASE}/runs/0001-run")
    place.file(f"{PHASE}/runs/0001-run/.hydra/config.yaml")
    assert list(place.files()) == [f"{PHASE}/runs/0001-run/.hydra/config.yaml"]


@pytest.mark.parametrize(
    ("closed", "told"),
    [
        (f"{PHASE}/ck/deep", f"{PHASE}/ck/deep"),
        (f"{PHASE}/ck", f"{PHASE}/ck"),
        (f"{PHASE}/ck/deep/w.pt", f"{PHASE}/ck/deep/w.pt"),
        (f"{PHASE}/runs/0001-train", f"{PHASE}/runs/0001-train"),
        (f"{PHASE}/runs", f"{PHASE}/runs"),
        (PHASE, PHASE),
        ("research-log", "research-log"),
    ],
)
def test_what_nobody_lets_us_see_is_not_taken_for_absent(place: Place, closed: str, told: str) -> None:
    place.run(f"{PHASE}/runs/0001-train", "ck/deep\0")
    place.file(f"{PHASE}/ck/deep/w.pt", "")
    (place.root / closed).chmod(0)
    assert place.files().get(told) == "unreadable"


def test_a_root_that_cannot_be_entered_is_unseen_and_one_that_is_not_there_is_empty(place: Place) -> None:
    place.run(f"{PHASE}/runs/0001-train")
    place.root.chmod(0)
    assert place.ask() is None
    place.root.chmod(0o755)
    place.root = place.root / "nowhere"
    assert place.ask() == MachineContents()


def test_links_that_lead_out_of_the_root_are_told(place: Place) -> None:
    place.run(f"{PHASE}/runs/0001-train", "ck\0")
    place.file("elsewhere/best.pt")
    place.file("../beside/w.pt")
    ck = place.file(f"{PHASE}/ck/a.pt").parent
    (ck / "covered").symlink_to("a.pt")
    (ck / "absolute").symlink_to(ck / "a.pt")
    (ck / "inside").symlink_to(place.root / "elsewhere")
    (ck / "out").symlink_to(place.root / "../beside/w.pt")
    (place.root / "folder").symlink_to("/usr")
    (ck / "dangling").symlink_to("/nowhere/at/all")
    files = place.files()
    assert [name for name, is_ in files.items() if is_ == "outside"] == ["folder", f"{PHASE}/ck/out"]
    assert set(files) == {"elsewhere/best.pt", "folder"} | {
        f"{PHASE}/ck/{name}" for name in ("a.pt", "covered", "absolute", "inside", "out", "dangling")
    }
    held = place.ask()
    assert held is not None
    assert not any(is_here(file, place.root) for file in held.files if file.checksum == "outside")


def test_everything_below_the_root_counts_but_what_is_made_again(place: Place) -> None:
    run = place.run("log/phase1-x/runs/0001-train")
    place.file("env/bin/python")
    place.file(".runner/code.json")
    place.file("log/phase1-x/__pycache__/train.pyc")
    (place.root / "log/phase1-x/run.log").symlink_to(run / "log")
    counted = {"notes.txt", "data/x.bin", "log/phase1-x/token", "log/README", ".hidden/x", "a/runs/b/c/lock"}
    counted |= {"log/phase1-x/runs/0001-train/log", ".git/config", "log/phase1-x/out/runs/r/token"}
    for name in counted:
        place.file(name)
    assert set(place.files()) == counted


def test_beside_the_root_counts_what_no_tool_made(place: Place) -> None:
    place.home = str(place.root.parent)
    place.file("log/phase1-x/w.pt")
    for name in ("../.bashrc", "../.cache/x", "../.ssh/authorized_keys", "../.local/bin/uv"):
        place.file(name)
    place.file("../data/a/one", "123")
    place.file("../data/two", "45")
    place.file("../note")
    (place.root.parent / "empty").mkdir()
    held = place.ask()
    assert held is not None
    told = [(entry.name, entry.num_files, entry.num_bytes) for entry in held.home]
    assert told == [("data", 2, 5), ("note", 1, 1)]
    place.root = place.root.parent / "nowhere"  # hides nothing beside it
    held = place.ask()
    assert held is not None and [entry.name for entry in held.home] == ["data", "note", "root"]
    place.root = place.root.parent / "root"


def test_the_environment_may_be_a_link_to_another_disk(place: Place) -> None:
    place.file("../disk/bin/python")
    (place.root / "env").symlink_to("../disk")
    assert place.files() == {}


def clone(place: Place, folder: str) -> Path:
    """A clone as the shim makes it, of two files, one of which nobody changes."""
    origin = place.root.parent / "origin"
    for words in (["init", "-q", "-b", "main", "."], ["add", "."], ["commit", "-q", "-m", "x"]):
        origin.mkdir(exist_ok=True)
        for name in ("same.py", "other.py"):
            (origin / name).write_text(name)
        git(origin, *words)
    git(place.root, "clone", "-q", str(origin), folder)
    (place.root / folder / ".git/cloned").write_text(f"{origin} main\n")
    return place.root / folder


def git(folder: Path, *words: str) -> None:
    """git, by somebody."""
    who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "safe.directory=*"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_what_git_cloned_and_nobody_changed_is_left_out_also_when_a_change_was_committed(
    place: Place,
) -> None:
    folder = clone(place, "code")
    assert place.files() == {}
    (folder / "other.py").write_text("changed")
    (folder / "new.py").write_text("new")
    assert set(place.files()) == {"code/other.py", "code/new.py"}
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "by hand")
    assert set(place.files()) == {"code/other.py", "code/new.py"}


def test_stamps_show_what_changed_meanwhile(place: Place) -> None:
    run = place.run(f"{PHASE}/runs/0001-train", "ck\0")
    place.file(f"{PHASE}/ck/a.pt", "one")
    held, now = place.ask(), place.ask(only_stamps=True)
    assert held is not None and now is not None
    assert states(held) == states(now)
    place.file(f"{PHASE}/ck/a.pt", "two")
    place.file(f"{PHASE}/ck/b.pt")
    (run / "exit_code").write_text("1\n")
    later = place.ask(only_stamps=True)
    assert later is not None
    changed = {name for name, _ in set(states(now)) ^ set(states(later))}
    assert changed == {f"{PHASE}/ck/a.pt", f"{PHASE}/ck/b.pt", f"{PHASE}/runs/0001-train"}


@pytest.mark.parametrize("said", [b"", b"Welcome!\n", BEGIN, BEGIN + b"j 20\n{"])
def test_an_answer_without_its_end_says_nothing(said: bytes) -> None:
    asked = ask_contents(lambda *words: sh(*words), "env")
    assert asked.read(Result(0, said)) is None


def test_a_run_that_is_about_to_start_is_alive(place: Place) -> None:
    lock = place.file(f"{PHASE}/runs/0001-train/lock", "")
    with lock.open() as held_lock:
        fcntl.flock(held_lock, fcntl.LOCK_EX)
        held = place.ask()
    assert held is not None and [run.is_alive for run in held.runs] == [True]

"""The research log: states and order over names in real use, run numbers, and what is code."""

import io
import os
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from runner.config.freeze import load
from runner.errors import CheckFailed
from runner.jobs.transfer import sync
from runner.plan.command import Command
from runner.plan.plan import Step
from runner.research_log.code import Code, ask_revision, code_of
from runner.research_log.phases import phase_folders
from runner.research_log.runs import next_run, run_names
from runner.world.live import Live, answer, observe
from runner.world.screen import Screen
from runner.world.world import Result

# What is in a phase's folder → its state. A trailing slash is a folder.
STATES = {
    "": "EMPTY",
    "notes.md": "EMPTY",
    "train.py": "EMPTY",
    "runs/": "EMPTY",
    "PLAN.md": "PENDING",
    "PLAN_PHASE{n}.md": "PENDING",
    "PLAN_B.md train.py": "PENDING",
    "PLANS.md": "EMPTY",
    "RESULTS.md": "COMPLETE",
    "RESULTS_PHASE{n}.md": "COMPLETE",
    "RESULTS_PHASE99.md": "EMPTY",
    "PLAN.md RESULTS_PHASE99.md": "PENDING",
    "RESULTS.md runs/0001-train/log PLAN.md": "COMPLETE",
    "run.log": "ACTIVE",
    "PLAN.md run.log": "ACTIVE",
    "PLAN.md runs/0001-train/log": "ACTIVE",
    "PLAN.md runs/": "PENDING",
    "checkpoints/": "ACTIVE",
    "checkpoints_recurrent/": "ACTIVE",
    "checkpoints_recurrent/step=3.pt": "ACTIVE",
    "checkpoints.md": "EMPTY",
    "my_checkpoints/": "EMPTY",
}


def fill(folder: Path, names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names.split():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return folder


@pytest.mark.parametrize("number", ["11", "2.5", "19.5"])
@pytest.mark.parametrize(("names", "state"), STATES.items())
def test_the_state_is_read_off_the_files(names: str, state: str, number: str, tmp_path: Path) -> None:
    fill(tmp_path / f"phase{number}-x", names.format(n=number))
    assert [phase.state for phase in phase_folders(tmp_path)] == [state]


def test_phases_are_in_numeric_order_and_twins_by_name(tmp_path: Path) -> None:
    names = ["phase19.5-full-critic", "phase2.5-bpe", "phase10-b", "phase2-x", "phase10-a", "phase19-c"]
    for name in [*names, "archive", "phase", "phaseX-1", "old-phase3"]:
        (tmp_path / name).mkdir()
    (tmp_path / "phase99.md").touch()
    found = phase_folders(tmp_path)
    assert [phase.name for phase in found] == [
        *("phase2-x", "phase2.5-bpe", "phase10-a", "phase10-b", "phase19-c", "phase19.5-full-critic")
    ]
    assert found[-1].number == Decimal("19.5")


def test_a_linked_results_file_and_a_dangling_run_log_count(tmp_path: Path) -> None:
    folder = fill(tmp_path / "phase1-x", "")
    (folder / "run.log").symlink_to("runs/0001-train/log")
    assert phase_folders(tmp_path)[0].state == "ACTIVE"


def test_phases_of_any_name_are_found(hostile_dir: Path) -> None:
    name = "phase7-it's \"x\"; 'echo foo' $(id)\n李明"
    fill(hostile_dir / name, "PLAN.md")
    assert [(phase.name, phase.state) for phase in phase_folders(hostile_dir)] == [(name, "PENDING")]


def test_run_numbers_count_on_from_the_highest(tmp_path: Path) -> None:
    assert next_run(tmp_path, "train") == "0001-train"
    for name in ("0001-train", "0003-generate", "notes", "0002-train"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run(tmp_path, "train") == "0004-train"
    assert run_names(tmp_path) == ("0001-train", "0002-train", "0003-generate")
    (tmp_path / "runs" / "9999-train").mkdir()
    assert next_run(tmp_path, "train") == "10000-train"
    (tmp_path / "runs" / "10000-train").mkdir()
    assert run_names(tmp_path)[-1] == "10000-train"


# ------------------------------------------------------------------------------------ the code

NO_GIT = Result(128)


def digest(root: Path, artifacts: tuple[str, ...] = ()) -> str:
    return code_of(root, "phase1-x", artifacts).read(NO_GIT).digest


@pytest.fixture
def phase(tmp_path: Path) -> Path:
    folder = fill(tmp_path / "phase1-x", "train.py sub/util.py")
    (folder / "train.py").write_text("print(1)")
    return folder


@pytest.mark.parametrize(
    "product",
    ["runs/0001-train/log", "run.log", ".venv/bin/python", "__pycache__/a.pyc", "sub/__pycache__/a.pyc"],
)
def test_what_a_run_makes_is_not_code(product: str, phase: Path) -> None:
    before = digest(phase.parent)
    (phase / product).parent.mkdir(parents=True, exist_ok=True)
    (phase / product).write_text("x")
    assert digest(phase.parent) == before


def test_artifacts_are_not_code(phase: Path) -> None:
    artifacts = ("checkpoints/", "metrics.jsonl", "a/b.pt")
    before = digest(phase.parent, artifacts)
    for name in ("checkpoints/deep/x.pt", "metrics.jsonl", "a/b.pt"):
        (phase / name).parent.mkdir(parents=True, exist_ok=True)
        (phase / name).write_text("x")
    assert digest(phase.parent, artifacts) == before
    (phase / "checkpoints_other").write_text("x")
    assert digest(phase.parent, artifacts) != before


def test_content_name_and_mode_are_code(phase: Path) -> None:
    seen = {digest(phase.parent)}
    (phase / "train.py").write_text("print(2)")
    seen.add(digest(phase.parent))
    (phase / "train.py").rename(phase / "train2.py")
    seen.add(digest(phase.parent))
    (phase / "train2.py").chmod(0o755)
    seen.add(digest(phase.parent))
    (phase / "link").symlink_to("a")
    seen.add(digest(phase.parent))
    (phase / "link").unlink()
    (phase / "link").symlink_to("b")
    seen.add(digest(phase.parent))
    assert len(seen) == 6


def test_a_file_that_git_lists_and_is_gone_is_left_out(phase: Path) -> None:
    listed = Result(0, b"phase1-x/train.py\0phase1-x/gone.py\0")
    assert code_of(phase.parent, "phase1-x", ()).read(listed).files == ("phase1-x/train.py",)


def test_names_that_are_not_utf8_are_code(phase: Path) -> None:
    listed = Result(0, b"phase1-x/\xff\n.py\0")
    (phase.parent / "phase1-x" / b"\xff\n.py".decode("utf-8", "surrogateescape")).write_text("x")
    assert len(code_of(phase.parent, "phase1-x", ()).read(listed).files) == 1


def test_a_fifo_is_not_waited_for(phase: Path) -> None:
    os.mkfifo(phase / "pipe")
    assert "phase1-x/pipe" not in code_of(phase.parent, "phase1-x", ()).read(NO_GIT).files


# ------------------------------------------------------------------------------------ git itself

PHASE = "log/phase1-x"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two committed files of a phase, and its YAML."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "a repository"
    fill(root, f"{PHASE}/train.py {PHASE}/util.py conf/phase/phase1.yaml .gitignore")
    (root / ".gitignore").write_text(".env\n")
    (root / PHASE / "train.py").write_text("print(1)\n" * 9)
    git(root, "init", "-q", "-b", "main")
    commit(root)
    return root


def git(root: Path, *words: str, is_fine: bool = True) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", *who, *words], cwd=root, check=is_fine, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "-")


def code(root: Path) -> Code:
    return observe(Live(), code_of(root, PHASE, ()))


def changed(root: Path, yaml: Path | None = None) -> tuple[str, ...]:
    found = answer(Live(), ask_revision(root, PHASE, (), yaml))
    assert found.commit is not None
    return found.changed


def sync_line(root: Path) -> str:
    words = ["phase=mine", "action=sync", "instance=gpu_1x_a10", f"paths.research_log={root / 'log'}"]
    folder = root.parent / "conf/phase"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text('# @package _global_\n{"phase": {"name": "phase1-x"}}\n')
    plan = answer(Live(), sync(load(words, root, folder.parent)))
    return plan.steps[0].command


def test_git_that_fails_pushes_nothing_and_says_why(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    (repository / PHASE / ".env").write_text("SECRET=1")
    with pytest.raises(CheckFailed, match="dubious ownership") as raised:
        sync_line(repository)
    assert raised.value.exit_code == 65
    assert any("safe.directory" in hint for hint in raised.value.hints)


def test_a_damaged_repository_is_not_taken_for_none(repository: Path) -> None:
    (repository / ".git/HEAD").unlink()
    assert "not a git repository" in code(repository).git_error


def test_a_worktree_whose_repository_is_gone_is_not_taken_for_none(tmp_path: Path) -> None:
    fill(tmp_path / PHASE, "train.py")
    (tmp_path / ".git").write_text(f"gitdir: {tmp_path}/gone\n")
    assert "not a git repository" in code(tmp_path).git_error


def test_outside_git_every_file_is_code(tmp_path: Path) -> None:
    fill(tmp_path / PHASE, "train.py .env")
    found = code(tmp_path)
    assert (len(found.files), found.is_in_git, found.git_error) == (2, False, "")


def test_without_git_every_file_is_code(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = shutil.which("env")
    assert env
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/env").symlink_to(env)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = code(repository)
    assert (len(found.files), found.is_in_git, found.git_error) == (2, False, "")


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"])
def test_a_caller_in_another_repository_is_not_led_there(
    name: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / PHASE / ".env").write_text("SECRET=1")
    before = code(repository)
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    where = {"GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / ".git/index"}
    monkeypatch.setenv(name, str(where.get(name, other / ".git")))
    assert code(repository) == before and len(before.files) == 2
    assert changed(repository) == ()
    listed = re.search(r"&& (git -C .*? ls-files .*?) \|", sync_line(repository))
    assert listed
    said = io.BytesIO()
    Live().shell(Step("sync", Command(listed[1]).within(str(repository))), Screen(said))
    assert said.getvalue().split(b"\0")[:-1] == [b"train.py", b"util.py"]


def test_a_staged_rename_is_a_change(repository: Path) -> None:
    git(repository, "mv", f"{PHASE}/train.py", f"{PHASE}/train two.py")
    (repository / PHASE / "new.py").touch()
    assert changed(repository) == ("new.py", "train two.py")


def test_an_unresolved_merge_is_a_change(repository: Path) -> None:
    script = repository / PHASE / "train.py"
    for branch in ("one", "two"):
        git(repository, "checkout", "-q", "-b", branch, "main")
        script.write_text(f"print('{branch}')\n")
        commit(repository)
    git(repository, "merge", "one", is_fine=False)
    assert "<<<<<<<" in script.read_text()
    assert changed(repository) == ("train.py",)


def test_the_yaml_of_a_phase_is_a_change_when_it_is_new_or_changed(repository: Path) -> None:
    yaml = repository / "conf/phase/phase1.yaml"
    assert changed(repository, yaml) == ()
    yaml.write_text("phase: {}\n")
    assert changed(repository, yaml) == ("phase1.yaml",)
    fresh = yaml.with_name("phase2.yaml")
    fresh.touch()
    assert changed(repository, fresh) == ("phase2.yaml",)


def test_a_yaml_outside_git_is_no_change(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    assert changed(repository, tmp_path / "mine.yaml") == ()

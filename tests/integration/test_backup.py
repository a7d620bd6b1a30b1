"""backup and the clone of a phase's source: the very bash, between two folders of this machine."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.jobs.transfer import BACKUP, CLONE, ORIGIN, OUTSIDE
from runner.machines.probe import FILE_STATE, RECORDS
from runner.plan.command import sh


@dataclass
class Pair:
    """The folder of a phase on a machine, and the same here."""

    there: Path
    here: Path

    def backup(self, *names: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Bring these artifacts home."""
        listed = sh(*(f"./{name}" for name in names)).text
        theirs = "\n".join([f"cd {sh(self.there).text}", ORIGIN, FILE_STATE, RECORDS, OUTSIDE])
        rsync = sh("rsync", "-lptR", "--no-implied-dirs", "--from0", "--files-from=-", f"{self.there}/").text
        text = BACKUP.format(
            state=FILE_STATE,
            phase=sh(self.here).text,
            theirs=f"({theirs}\nrecords {listed})",
            fetch=f"{rsync} $new/files",
            names=listed,
        )
        words = ["bash", "-c", f"({text})"]
        return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(env or {})})

    def kept(self) -> list[str]:
        """What is in runs/replaced."""
        return sorted(p.read_text() for p in (self.here / "runs/replaced").rglob("*") if p.is_file())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    return Pair(there, here)


def test_a_checkpoint_that_was_cut_short_replaces_no_good_one_for_good(pair: Pair) -> None:
    good = "good weights, nine hours of them"
    for text in (good, "", good + " and one more", good[:-1], "other", "another"):
        (pair.there / "ck.pt").write_text(text)
        assert pair.backup("ck.pt").returncode == 0
        assert (pair.here / "ck.pt").read_text() == text
    assert pair.kept() == sorted([good, good + " and one more", good[:-1]])


def test_a_disk_that_has_one_file_for_two_names_verifies_neither(pair: Pair) -> None:
    for name in ("A.pt", "a.pt", "b.pt"):
        (pair.there / name).write_text(name)
    assert pair.backup("A.pt", "a.pt", "b.pt").returncode == 0
    both = 'for to; do :; done; case "$to" in ./[Aa].pt) cp "$to" A.pt; cp "$to" a.pt;; esac'
    one_file = f'() {{  command mv "$@" && {both}\n}}'
    for path in pair.here.glob("?.pt"):
        path.unlink()
    done = pair.backup("A.pt", "a.pt", "b.pt", env={"BASH_FUNC_mv%%": one_file})
    assert done.returncode == 65, done
    assert "A.pt" in done.stdout + done.stderr and "one file for two of the machine" in done.stderr
    assert "b.pt" not in done.stdout and "verified:" not in done.stdout


def test_what_a_run_left_in_its_folder_comes_home_by_its_name(pair: Pair) -> None:
    for folder in (pair.there, pair.here):
        (folder / "runs/0001-train").mkdir(parents=True)
    (pair.there / "runs/0001-train/samples.jsonl").write_text("{}\n")
    assert pair.backup("runs/0001-train/samples.jsonl").returncode == 0
    assert (pair.here / "runs/0001-train/samples.jsonl").read_text() == "{}\n"


def test_an_artifact_of_which_there_is_nothing_is_told(pair: Pair) -> None:
    (pair.there / "out").mkdir()
    (pair.there / "out/a.pt").write_text("a")
    done = pair.backup("out", "chekpoints", "metrics.jsonl")
    assert done.returncode == 0 and "verified: 1 files" in done.stdout
    assert done.stderr.endswith("nothing on the machine of these artifacts: ./chekpoints ./metrics.jsonl\n")


# ---------------------------------------------------------------------------------------------- clone

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def clone(origin: Path, root: Path, ref: str) -> str:
    """The phase's folder on a machine, as sync makes it; artifacts are in out/."""
    text = CLONE.format(
        root=sh(root).text,
        folder="phase",
        git=sh(origin).text,
        ref=ref,
        unless=sh(":(exclude,literal)out", ":(exclude,literal)runs").text,
        products="./out ./runs",
    )
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout


def test_a_clone_leaves_what_runs_made(tmp_path: Path) -> None:
    origin, phase = tmp_path / "origin", tmp_path / "root/phase"
    (origin / "out").mkdir(parents=True)
    git(origin, "init", "-q")
    for name, text in (("train.py", "1"), ("out/metrics.jsonl", "committed"), ("out/schema.json", "{}")):
        (origin / name).write_text(text)
    git(origin, "add", ".")
    git(origin, "commit", "-qm1")
    first = git(origin, "rev-parse", "HEAD")
    clone(origin, tmp_path / "root", first)
    assert (phase / "out/metrics.jsonl").read_text() == "committed"
    (phase / "out/metrics.jsonl").write_text("nine hours of results")
    assert "nothing to do" in clone(origin, tmp_path / "root", first)
    (origin / "train.py").write_text("2")
    (origin / "out/more.json").write_text("{}")
    git(origin, "add", ".")
    git(origin, "commit", "-qm2")
    clone(origin, tmp_path / "root", git(origin, "rev-parse", "HEAD"))
    assert (phase / "train.py").read_text() == "2"
    assert (phase / "out/more.json").exists() and (phase / "out/schema.json").exists()
    assert (phase / "out/metrics.jsonl").read_text() == "nine hours of results"
    (phase / "train.py").write_text("touched")
    clone(origin, tmp_path / "root", git(origin, "rev-parse", "HEAD"))
    assert (phase / "train.py").read_text() == "2", "what is no artifact is as it was committed"

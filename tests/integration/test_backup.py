"""backup and the clone of a phase's source, by the shim: between two folders of this machine."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.plan.command import SHIM

# Stands for ssh: runs what it is told in a home that is its own.
SSH = '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n'


@dataclass
class Pair:
    """The folder of a phase on a machine, and the same here."""

    there: Path
    here: Path
    programs: Path

    def backup(
        self, *names: str, program: tuple[str, ...] = (str(SHIM),)
    ) -> subprocess.CompletedProcess[str]:
        """Bring these artifacts home."""
        root, here = self.there.parent, self.here.parent
        words = [sys.executable, *program, "--root", str(root), "fetch", "lambda", "phase", "--", *names]
        path = f"{self.programs}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(SHIM.parent.parent)}
        return subprocess.run(words, cwd=here, capture_output=True, text=True, env=env, check=False)

    def kept(self) -> list[str]:
        """What was kept of what another took the name of."""
        runs = self.here / "runs"
        found = [*runs.glob("replaced/**/*"), *runs.glob("*/artifacts/**/*")]
        return sorted(path.read_text() for path in found if path.is_file())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    there, here, programs = tmp_path / "far/phase", tmp_path / "near/phase", tmp_path / "bin"
    for folder in (there, here, programs):
        folder.mkdir(parents=True)
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    return Pair(there, here, programs)


def test_a_checkpoint_that_was_cut_short_replaces_no_good_one_for_good(pair: Pair) -> None:
    good = "good weights, nine hours of them"
    for text in (good, "", good + " and one more", good[:-1], "other", "another"):
        (pair.there / "ck.pt").write_text(text)
        assert pair.backup("ck.pt").returncode == 0
        assert (pair.here / "ck.pt").read_text() == text
    assert pair.kept() == sorted([good, good + " and one more", good[:-1]])


def test_the_second_training_leaves_the_checkpoint_of_the_first(pair: Pair) -> None:
    for run, text in (("0001-train", "first"), ("0002-train", "second")):
        folder = pair.there / "runs" / run
        folder.mkdir(parents=True)
        (folder / "token").write_text(run)
        if run == "0001-train":
            os.utime(folder / "token", (1e9, 1e9))
        (pair.there / "ck.pt").write_text(text)
        if run == "0001-train":
            os.utime(pair.there / "ck.pt", (1.1e9, 1.1e9))
        assert pair.backup("ck.pt").returncode == 0
    assert (pair.here / "ck.pt").read_text() == "second"
    assert (pair.here / "runs/0001-train/artifacts/ck.pt").read_text() == "first"


# A disk that does not tell A from a: what gets one name gets the other too.
ONE_FILE = """
import os, shutil, sys, time
from runner import shim
replace, time.sleep = os.replace, lambda seconds: None
def replaced(old, new):
    replace(old, new)
    if new.lower() == "a.pt":
        for name in ("A.pt", "a.pt"):
            if name != new:
                shutil.copy(new, name)
os.replace = replaced
sys.exit(shim.main(sys.argv[1:]))
"""


def test_a_disk_that_has_one_file_for_two_names_verifies_neither(pair: Pair) -> None:
    for name in ("A.pt", "a.pt", "b.pt"):
        (pair.there / name).write_text(name)
    assert pair.backup("A.pt", "a.pt", "b.pt").returncode == 0
    for path in pair.here.glob("?.pt"):
        path.unlink()
    done = pair.backup("A.pt", "a.pt", "b.pt", program=("-c", ONE_FILE))
    assert done.returncode == 65, done
    assert "one file for two of the machine" in done.stderr
    assert "verified:" not in done.stdout


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
    assert done.stderr.endswith("nothing on the machine of these artifacts: chekpoints metrics.jsonl\n")


def test_a_pattern_means_what_it_matches(pair: Pair) -> None:
    for name in ("results_1.jsonl", "results_2.jsonl", "other.jsonl", "results_[x].jsonl"):
        (pair.there / name).write_text(name)
    assert pair.backup("results_*.jsonl").returncode == 0
    assert sorted(path.name for path in pair.here.glob("*.jsonl")) == [
        "results_1.jsonl",
        "results_2.jsonl",
        "results_[x].jsonl",
    ]


@pytest.mark.parametrize("said", ["exit 0", "exit 1", "echo hello", "echo '<<fractal begin>>'; exit 0"])
def test_what_is_no_whole_answer_verifies_nothing(pair: Pair, said: str) -> None:
    (pair.there / "ck.pt").write_text("weights")
    (pair.programs / "ssh").write_text(f"#!/bin/sh\n{said}\n")
    (pair.programs / "sleep").write_text("#!/bin/sh\n")
    code = f"import sys, time; time.sleep = lambda s: None; sys.path.insert(0, {str(SHIM.parent.parent)!r})\n"
    code += "from runner import shim\nsys.exit(shim.main(sys.argv[1:]))"
    env = {**os.environ, "PATH": f"{pair.programs}:{os.environ['PATH']}"}
    words = [sys.executable, "-c", code, "--root", "/far", "fetch", "lambda", "phase", "--", "ck.pt"]
    done = subprocess.run(words, cwd=pair.here.parent, capture_output=True, text=True, env=env, check=False)
    assert done.returncode != 0
    assert "verified" not in done.stdout and "nothing on the machine" not in done.stderr
    assert not (pair.here / "ck.pt").exists()


# ---------------------------------------------------------------------------------------------- clone

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def clone(origin: Path, root: Path, ref: str) -> str:
    """The phase's folder on a machine, as sync makes it; artifacts are in out/."""
    words = [sys.executable, str(SHIM), "--root", str(root), "clone", "phase", str(origin), ref, "--"]
    done = subprocess.run([*words, "out", "runs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, shlex.join(words) + done.stderr
    return done.stdout


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

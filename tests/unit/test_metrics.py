"""What status makes of the last lines of a metrics file."""

import fcntl
import subprocess
import sys
from pathlib import Path

from runner.machines.probe import read_inside
from runner.plan.command import SHIM
from runner.research_log.runs import Progress, progress_of
from runner.world.world import Result
from tests.support import framed

START = {"training": "b", "event": "start", "step": 0, "num_parameters": 9, "seconds": 1.0}


def test_progress_is_that_of_the_newest_training_alone() -> None:
    old = {"training": "a", "step": 900, "loss": 0.1, "seconds": 50.0}
    assert progress_of([old, START]) is None
    new = {"training": "b", "event": "train", "step": 100, "loss": 0.5, "samples_per_second": 42.0}
    assert progress_of([old, START, new]) == Progress(100, (("loss", 0.5),), (("samples_per_second", 42.0),))


def test_steps_tell_how_fast_they_are_where_nothing_else_does() -> None:
    lines = [{"step": n, "loss": 1.0, "seconds": n / 4} for n in (10, 20, 20, 40)]
    assert progress_of(lines) == Progress(40, (("loss", 1.0),), (("steps_per_second", 4.0),))
    assert progress_of([{"note": "no step"}]) is None
    assert progress_of([]) is None


def test_a_run_has_its_own_metrics_and_the_gpu_while_it_runs() -> None:
    half = ['half of a line"}', '{"step": 7, "loss": 0.5}']
    row = {"folder": "research-log/phase1-test/runs/0001-train", "touched_s_ago": 3.0, "metrics": []}
    newer = {"folder": "research-log/phase1-test/runs/0002-train", "state": "running", "metrics": half}
    rows = [row | {"state": "ended", "exit_code": 0}, row | newer]
    said = framed({"up_s": 900.0, "gpu_percent": [0, 97], "drifted": False, "runs": rows})
    inside = read_inside(Result(0, said))
    assert inside
    documents = [run.document(inside.gpu_percent) for run in inside.runs]
    assert [(d["step"], d["metrics"], d["gpu_percent"]) for d in documents] == [
        (None, {}, None),
        (7, {"loss": 0.5}, 97),
    ]


def test_every_run_on_the_machine_is_told_wherever_its_research_log_is(tmp_path: Path) -> None:
    """One without a phase, one of a phase, one of another research log; and a folder where nothing began."""
    folders = [
        "research-log/runs/0001-run",
        "research-log/phase1-test/runs/0001-train",
        "notes/p/runs/0002-x",
    ]
    for folder in (*folders, "research-log/phase1-test/runs/0002-refused"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in folders:
        (tmp_path / folder / "token").write_text("t")
    (tmp_path / folders[0] / "lock").touch()
    with (tmp_path / folders[0] / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked = [sys.executable, SHIM, "--root", tmp_path.name, "status"]
        done = subprocess.run(asked, capture_output=True, check=True, cwd=tmp_path.parent)
    inside = read_inside(Result(0, done.stdout))
    assert inside
    assert {run.folder: run.state for run in inside.runs} == dict(
        zip(folders, ("running", "lost", "lost"), strict=True)
    )
    assert inside.idle_s == 0


def test_a_machine_without_our_root_has_no_runs_and_is_not_given_one(tmp_path: Path) -> None:
    root = tmp_path / "nowhere"
    done = subprocess.run([sys.executable, SHIM, "--root", root, "status"], capture_output=True, check=True)
    inside = read_inside(Result(0, done.stdout))
    assert inside and inside.runs == () and not inside.has_drifted and not root.exists()
    assert read_inside(Result(0, done.stdout[:-3])) is None, "half of an answer is none"

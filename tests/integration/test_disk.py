"""A disk that is full or read-only: the job is not killed by our logging, and everybody is told."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import PYTHON, Lab, runner_env

CUT_SHORT = "[runner] the log stops here: it could not be written any further"

TRAIN = ("phase=phase1", "action=train", "confirm=true")
Mount = Callable[..., None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """`mount(folder, *words)`: undone when the test is over."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    mounted: list[Path] = []

    def do(folder: Path, *words: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *words, str(folder)], check=True)
        mounted.append(folder)

    yield do
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(mount: Mount) -> Mount:
    """`small_disk(folder)`: 64 kB of space."""
    return lambda folder, *words: mount(folder, "-t", "tmpfs", "-o", "size=64k", "tmpfs", *words)


CHATTY = "for n in range(20000): print('line', n)\nopen({done!r}, 'w').close()\nraise SystemExit(3)"


def test_a_full_disk_does_not_stop_the_job(
    research_log: Lab, small_disk: Mount, runner: Runner, tmp_path: Path
) -> None:
    folder = research_log.add_phase(script=CHATTY.format(done=str(tmp_path / "done")))
    small_disk(folder / "runs")
    done = runner(*TRAIN, *research_log.args)
    assert (tmp_path / "done").exists(), done
    assert done.exit_code == 3, done
    assert "No space left on device" in done.stdout
    assert CUT_SHORT in done.stdout
    run = folder / "runs/0001-train"
    kept = (run / "log").read_text()
    assert kept.startswith("line 0\nline 1\n")
    assert kept.endswith(CUT_SHORT + "\n")
    assert (run / "exit_code").read_text() == "3\n"
    assert json.loads((run / "result.json").read_text())["exit_code"] == 3
    assert not (run / "reserved").exists()


def test_the_log_says_where_it_stopped_when_space_came_back(
    research_log: Lab, small_disk: Mount, home: Path, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    script = (
        "import pathlib, time\nfor n in range(20000): print('line', n)\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.02)\n"
        "print('later')"
    )
    folder = research_log.add_phase(script=script)
    small_disk(folder / "runs")
    command = [PYTHON, "-m", "runner", *TRAIN, *research_log.args]
    process = subprocess.Popen(
        command, env=runner_env(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log = folder / "runs/0001-train/log"
    size, deadline = -1, time.monotonic() + 20
    while (not log.exists() or log.stat().st_size != size) and time.monotonic() < deadline:
        size = log.stat().st_size if log.exists() else -1
        time.sleep(0.5)
    subprocess.run(["mount", "-o", "remount,size=10m", str(folder / "runs")], check=True)
    go_on.touch()
    told = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 0, told
    assert CUT_SHORT in told
    assert log.read_text().endswith(CUT_SHORT + "\n")


def test_a_disk_that_is_full_before_is_told_before_anything_runs(
    research_log: Lab, small_disk: Mount, runner: Runner
) -> None:
    folder = research_log.add_phase()
    small_disk(folder / "runs")
    (folder / "runs/ballast").write_bytes(b"x" * 65536)
    done = runner(*TRAIN, *research_log.args)
    assert done.exit_code == 64, done
    assert "No space left on device" in done.stderr
    assert "Nothing has run" in done.stderr
    assert [path.name for path in (folder / "runs").iterdir()] == ["ballast"]


def test_a_read_only_research_log_is_told_before_anything_runs(
    research_log: Lab, mount: Mount, runner: Runner
) -> None:
    folder = research_log.add_phase()
    mount(research_log.log, "--bind", str(research_log.log))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(research_log.log)], check=True)
    shown = runner(*TRAIN[:2], *research_log.args)
    assert shown.exit_code == 0, shown  # a plan can be shown
    done = runner(*TRAIN, *research_log.args)
    assert done.exit_code == 64, done
    assert "Read-only file system" in done.stderr
    assert "Nothing has run" in done.stderr
    assert not (folder / "runs").exists()

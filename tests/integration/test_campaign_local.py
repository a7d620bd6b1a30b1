"""Campaigns on this machine: many runs of every ending, many at once, and a log without end."""

import hashlib
import json
import random
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import PYTHON, Lab, run_runner, runner_env, soak_size

TRAIN = ("phase=phase1", "action=train")
# Writes bytes, most of them no text, and ends as it is told: by a code, or by a signal below zero.
ENDS = """
import os, random, sys
size, end = (int(word.partition("=")[2]) for word in sys.argv[1:])
sys.stdout.buffer.write(random.Random(size).randbytes(size))
sys.stdout.flush()
sys.exit(end) if end >= 0 else os.kill(os.getpid(), -end)
"""


@pytest.mark.soak
def test_many_runs_of_every_ending(research_log: Lab, home: Path, tmp_path: Path) -> None:
    """Two runners at a time on one phase; a plan that lost the race for its number is shown again."""
    chance = random.Random(3)
    folder = research_log.add_phase(script=ENDS, args={"size": 0, "end": 0})
    ends = [
        (chance.randrange(300_000), chance.choice([0, 0, 1, 3, 255, -9, -15, -6]))
        for _ in range(soak_size(300, 20))
    ]

    def one(asked: tuple[int, int]) -> None:
        words = [f"phase.jobs.train.args.{name}={n}" for name, n in zip(("size", "end"), asked, strict=True)]
        for _ in range(20):
            done = run_runner(
                *TRAIN, *words, "confirm=true", *research_log.args, cwd=tmp_path, env=runner_env(home)
            )
            if done.exit_code != 77:
                break
        assert done.exit_code == code_of(asked[1]), done

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, ends))
    runs = sorted((folder / "runs").iterdir())
    assert [run.name for run in runs] == [f"{n:04}-train" for n in range(1, len(ends) + 1)]
    assert sorted(map(checked, runs)) == sorted(ends)
    print(f"{len(runs)} runs, every log byte-equal, every exit code its own")


def code_of(end: int) -> int:
    return end if end >= 0 else 128 - end


def checked(run: Path) -> tuple[int, int]:
    """What the run was asked for, once what it left agrees with that."""
    step = json.loads((run / "plan.json").read_text())["steps"][-1]["command"]
    size, end = (int(found) for found in re.findall(r"--(?:size|end)=(-?\d+)", step))
    assert (run / "log").read_bytes() == random.Random(size).randbytes(size)
    assert int((run / "exit_code").read_text()) == code_of(end)
    assert json.loads((run / "result.json").read_text())["exit_code"] == code_of(end)
    left = {path.name for path in run.iterdir()}
    assert left == {"exit_code", "log", "pid", "plan.json", "result.json", "token"}
    return size, end


@pytest.mark.soak
def test_a_log_without_end_takes_no_memory(research_log: Lab, home: Path, tmp_path: Path) -> None:
    megabytes = soak_size(1000, 50)
    line = "a line of a log that somebody reads while it is written, number"
    script = f"import sys\nfor n in range({megabytes} * 13_000): print({line!r}, n)"
    folder = research_log.add_phase(script=script)
    command = [PYTHON, "-m", "runner", *TRAIN, "confirm=true", *research_log.args]
    started = time.monotonic()
    process = subprocess.Popen(command, env=runner_env(home), cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout
    shown, peak_kb = hashlib.sha256(), 0
    for number, row in enumerate(process.stdout):
        if row.startswith(b"a line"):
            shown.update(row)
        if number % 10_000 == 9_999:
            peak_kb = memory_peak_kb(process.pid)
    exit_code = process.wait(60)
    seconds = time.monotonic() - started
    log = folder / "runs/0001-train/log"
    size = log.stat().st_size / 1e6
    with log.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == shown.hexdigest()  # all of it was shown
    assert exit_code == 0
    assert 0 < peak_kb < 100_000, "more than 100 MB"
    print(f"{size:.0f} MB of log shown whole in {seconds:.0f} s, the runner's peak {peak_kb / 1000:.0f} MB")


def memory_peak_kb(pid: int) -> int:
    """Of the program that runs there now; wait4 counts from the fork, when it still was pytest."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line)


def test_repeated_lines_are_whole_in_the_log(research_log: Lab, runner: Runner) -> None:
    folder = research_log.add_phase(
        script="for n in range(1000): print('UserWarning: the same')\nprint('end')"
    )
    done = runner(*TRAIN, "confirm=true", *research_log.args)
    assert (folder / "run.log").read_text() == "UserWarning: the same\n" * 1000 + "end\n"
    assert done.stdout.count("UserWarning: the same") == 1
    assert "repeated 999 more times" in done.stdout

"""Ctrl-C, a polite kill and a closed terminal: the job is gone, the code is 130, and what is left is told."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import PYTHON, Lab, is_soak, runner_env, soak_size

# Says that it is there, and by which process; its end is that of the test.
SLEEPER = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
POLITE = (
    "import os, signal, sys, time\n"
    "def end(*_): print('saved a checkpoint', flush=True); sys.exit(5)\n"
    "signal.signal(signal.SIGINT, end); print('pid', os.getpid(), flush=True); time.sleep(60)"
)
STUBBORN = (
    "import os, signal, time\n"
    "for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n"
    "print('pid', os.getpid(), flush=True)\n"
    "while True: time.sleep(1)"
)


class Started:
    """The runner with a job that waits, in a process group of its own."""

    def __init__(self, lab: Lab, home: Path, script: str, *prefix: str) -> None:
        self.folder = lab.add_phase(script=script)
        self.process = subprocess.Popen(
            [*prefix, PYTHON, "-m", "runner", "phase=phase1", "action=train", "confirm=true", *lab.args],
            env=runner_env(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def wait_for_job(self) -> int:
        """The job's process, once it runs."""
        log = self.folder / "runs/0001-train/log"
        for _ in range(400):
            if log.exists() and log.read_text().startswith("pid "):
                return int(log.read_text().split()[1])
            time.sleep(0.02)
        raise AssertionError(self.process.communicate(timeout=5))

    def end(self, timeout_s: float = 30) -> tuple[int, str]:
        """Exit code and what was told."""
        _, told = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, told.decode()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("to_group", [False, True], ids=["runner", "group"])
def test_the_job_is_gone(number: int, to_group: bool, research_log: Lab, home: Path) -> None:
    run = Started(research_log, home, SLEEPER)
    job = run.wait_for_job()
    (os.killpg if to_group else os.kill)(run.process.pid, number)
    code, told = run.end()
    assert code == 130, told
    assert not is_alive(job)
    assert "stopped" in told
    assert "runs/0001-train/log" in told
    result = json.loads((run.folder / "runs/0001-train/result.json").read_text())
    assert (result["ok"], result["exit_code"]) == (False, 130)


def test_the_last_words_of_the_job_are_in_the_log(research_log: Lab, home: Path) -> None:
    run = Started(research_log, home, POLITE)
    run.wait_for_job()
    os.kill(run.process.pid, signal.SIGINT)
    assert run.end()[0] == 130
    assert (run.folder / "run.log").read_text().endswith("saved a checkpoint\n")
    assert (run.folder / "runs/0001-train/exit_code").read_text() == "5\n"  # its own, for who asks later


def test_each_ctrl_c_is_stronger(research_log: Lab, home: Path) -> None:
    run = Started(research_log, home, STUBBORN)
    job = run.wait_for_job()
    for _ in range(3):
        assert is_alive(job)
        os.kill(run.process.pid, signal.SIGINT)
        time.sleep(0.2)
    code, told = run.end(5)
    assert code == 130, told
    assert not is_alive(job)


@pytest.mark.soak
def test_a_job_that_ignores_ctrl_c_is_ended_in_time(research_log: Lab, home: Path) -> None:
    script = STUBBORN if is_soak() else STUBBORN.replace(", signal.SIGTERM", ",")
    run = Started(research_log, home, script)
    job = run.wait_for_job()
    os.kill(run.process.pid, signal.SIGINT)
    code, told = run.end(40)  # TERM after 10 s, KILL after 20
    assert code == 130, told
    assert not is_alive(job)


def test_nohup_is_respected(research_log: Lab, home: Path) -> None:
    run = Started(research_log, home, SLEEPER.replace("60", "1"), "nohup")
    run.wait_for_job()
    os.kill(run.process.pid, signal.SIGHUP)
    code, told = run.end()
    assert code == 0, told


@pytest.mark.soak
def test_whenever_it_comes_nothing_is_left_running(research_log: Lab, home: Path) -> None:
    """At any moment: while composing, while the folder is made, while the process starts, while it runs."""
    moments = random.Random(2)
    for number in range(soak_size(200, 12)):
        research_log_n = Lab(research_log.root / str(number), research_log.venv)
        run = Started(research_log_n, home, SLEEPER)
        # Python's own start, before anything can be caught, is not ours
        time.sleep(moments.uniform(0.12, 0.7))
        os.kill(run.process.pid, signal.SIGINT)
        code, told = run.end()
        assert code in (130, -signal.SIGINT), told
        assert "bug of the runner" not in told
        assert processes_in(research_log_n.root) == []


def processes_in(folder: Path) -> list[str]:
    """The command lines of processes whose current folder is this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found

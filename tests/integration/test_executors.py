"""What every executor promises, written once: each is held to all of it by an empty subclass."""

import io
import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.executors.base import Executor, Submission
from runner.executors.local import Local
from runner.executors.ssh import Remote, Ssh
from runner.plan.command import Command, Route, home_or_path, sh
from runner.plan.plan import Step
from runner.plan.tools import Here
from runner.research_log.runs import RunPaths, RunState, RunStatus
from runner.world.files import write_tools
from runner.world.live import Live, observe
from runner.world.screen import Screen
from tests.simulator.machine import Machine
from tests.support import HOSTILE_NAME, soak_size

# What can be in an argument or a variable of a process: anything but NUL and half a surrogate pair.
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))
EACH = [HealthCheck.differing_executors, HealthCheck.too_slow]  # the suite runs once for each executor
NAMED = [
    "",
    "$(touch x)",
    "'; rm -rf ~",
    '"',
    "\\",
    "a\nb",
    "李明",
    "ckpt=epoch=3-step=10.ckpt",
    " ",
    "-x",
    "~",
]


# A job with children in its group, in a session of their own, and orphaned; and one that ignores TERM.
FAMILY = """
import signal, subprocess, time
for is_alone in (True, False):
    subprocess.Popen(["sleep", "SECONDS"], start_new_session=is_alone)
subprocess.run(["bash", "-c", "sleep SECONDS >/dev/null 2>&1 &"])
print("up")
time.sleep(99)
"""
DEAF = FAMILY.replace("time\n", "time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n", 1)


def a_time() -> str:
    """Seconds that nobody else sleeps for."""
    return f"90.{uuid4().int % 10**9:09d}"


def num_sleeping(seconds: str) -> int:
    """How many sleep for that time, here or on the machine, which is seen from here."""
    found = subprocess.run(["pgrep", "-xf", f"sleep {seconds}"], capture_output=True, check=False)
    return len(found.stdout.split())


class ExecutorSuite:
    """`executor` keeps its runs below `root`, here; what it runs is read from there."""

    executor: Executor
    root: Path

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, machine: Machine) -> None:
        self.root = tmp_path / HOSTILE_NAME
        self.root.mkdir()
        self.executor = self.made(machine)

    def made(self, machine: Machine) -> Executor:
        """The executor under test."""
        raise NotImplementedError

    def paths(self, phase: str = "phase1-test") -> RunPaths:
        return RunPaths.of("research-log", phase, f"{uuid4().int % 10**8}-train")

    def take(self, step: Step, shown: io.BytesIO | None = None) -> int:
        write_tools(step.tools)
        return Live().shell(step, Screen(shown or io.BytesIO())).exit_code

    @property
    def here(self) -> Here:
        return Here(self.root, self.root / ".runner")

    def run(self, command: Command, paths: RunPaths | None = None) -> tuple[int, RunPaths]:
        """The job to its end: its exit code, as the last of its steps has it."""
        paths = paths or self.paths()
        (self.root / paths.folder).mkdir(parents=True)
        steps = self.executor.submit(Submission(command, paths, is_adhoc=True))
        codes = [self.take(step) for step in steps]
        assert not any(codes[:-1])
        return codes[-1], paths

    def python(self, code: str, paths: RunPaths | None = None) -> tuple[int, RunPaths]:
        return self.run(sh("python3", "-u", "-c", code), paths)

    def log(self, paths: RunPaths) -> bytes:
        return (self.root / paths.log).read_bytes()

    def state(self, paths: RunPaths) -> RunStatus:
        return observe(Live(), self.executor.state(paths))

    def started(self, code: str) -> RunPaths:
        """A job in the background, once it has said something."""
        paths = self.paths()
        threading.Thread(target=self.python, args=(code, paths), daemon=True).start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if (self.root / paths.log).is_file() and self.log(paths):
                return paths
            time.sleep(0.05)
        raise AssertionError("the job did not start")

    def ended(self, paths: RunPaths) -> int:
        """Waits until the exit code is here."""
        deadline = time.monotonic() + 30
        while not (self.root / paths.exit_code).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return int((self.root / paths.exit_code).read_text())

    @pytest.mark.parametrize("code", [0, 1, 7, 255])
    def test_the_exit_code_is_the_jobs_own(self, code: int) -> None:
        exit_code, paths = self.python(f"raise SystemExit({code})")
        assert exit_code == code
        assert self.state(paths) == RunStatus(RunState.ENDED, code)

    @pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("SEGV", 139)])
    def test_a_job_that_a_signal_ended_says_which(self, signal: str, code: int) -> None:
        kill = f"import os, signal; print('x'); os.kill(os.getpid(), signal.SIG{signal})"
        exit_code, paths = self.python(kill)
        assert (exit_code, self.log(paths)[:2]) == (code, b"x\n")

    def test_a_run_that_never_was_is_absent(self) -> None:
        assert self.state(self.paths()).state is RunState.ABSENT

    def test_both_streams_are_in_the_log_in_their_order(self) -> None:
        _, paths = self.python("import sys\nfor n in range(99): print(n); print(n, file=sys.stderr)")
        assert self.log(paths).decode() == "".join(f"{n}\n{n}\n" for n in range(99))

    def test_bytes_that_are_no_text_are_kept(self) -> None:
        _, paths = self.python("import sys; sys.stdout.buffer.write(bytes(range(256)) * 9 + b'end')")
        assert self.log(paths) == bytes(range(256)) * 9 + b"end"

    def test_a_job_may_close_its_output_and_go_on(self) -> None:
        exit_code, _ = self.python("import os; os.close(1); os.close(2); raise SystemExit(5)")
        assert exit_code == 5

    @pytest.mark.soak
    def test_a_line_without_end_is_kept_whole(self) -> None:
        size = soak_size(100_000_000, 10_000_000)
        code = f"import sys\nfor _ in range({size} // 1000): sys.stdout.write('x' * 1000)"
        _, paths = self.python(code)
        assert (self.root / paths.log).stat().st_size == size

    def test_its_output_is_here_while_it_runs(self) -> None:
        paths = self.started("import time; print('early'); time.sleep(60)")
        assert self.log(paths) == b"early\n"
        assert self.state(paths).state is RunState.RUNNING
        assert self.take(self.executor.stop(paths)) == 0
        assert self.ended(paths) == 143

    def test_a_job_that_ignores_TERM_is_killed_and_so_is_all_that_it_started(self) -> None:  # noqa: N802
        seconds = a_time()
        paths = self.started(DEAF.replace("SECONDS", seconds))
        assert num_sleeping(seconds) == 3
        assert self.take(self.executor.stop(paths)) == 0
        assert num_sleeping(seconds) == 0
        assert self.ended(paths) == 137

    @pytest.mark.soak
    def test_stopped_at_any_moment_nothing_of_a_run_is_left(self) -> None:
        for _ in range(soak_size(100, 1)):
            seconds, paths = a_time(), self.paths()
            job = threading.Thread(target=self.python, args=(FAMILY.replace("SECONDS", seconds), paths))
            job.start()
            while self.state(paths).state is not RunState.RUNNING:
                time.sleep(0.02)
            time.sleep(random.uniform(0, 0.4))
            assert self.take(self.executor.stop(paths)) == 0
            assert num_sleeping(seconds) == 0
            job.join(timeout=30)
            assert self.ended(paths) == 143

    def test_who_is_left_behind_on_its_output_does_not_keep_the_run_from_ending(self) -> None:
        seconds = a_time()
        started = time.monotonic()
        exit_code, paths = self.python(
            "import subprocess; print('done', flush=True); "
            f"subprocess.Popen(['sleep', '{seconds}'], start_new_session=True); raise SystemExit(6)"
        )
        assert time.monotonic() - started < 12
        assert (exit_code, self.log(paths), num_sleeping(seconds)) == (6, b"done\n", 1)
        subprocess.run(["pkill", "-xf", f"sleep {seconds}"], check=True)

    def test_the_log_is_shown_with_the_exit_code_of_the_job(self) -> None:
        _, paths = self.python("print('one'); print('two'); raise SystemExit(4)")
        shown = io.BytesIO()
        codes = [self.take(step, shown) for step in self.executor.logs(paths, None)]
        assert (codes[-1], shown.getvalue()) == (4, b"one\ntwo\n")

    def test_the_last_lines_alone_are_shown(self) -> None:
        _, paths = self.python("for n in range(20): print(n)")
        shown = io.BytesIO()
        codes = [self.take(step, shown) for step in self.executor.logs(paths, 2)]
        assert (codes, shown.getvalue()) == ([0], b"18\n19\n")

    @pytest.mark.soak
    @settings(max_examples=soak_size(100, 8), suppress_health_check=EACH)
    @given(st.lists(TEXT, max_size=20), st.lists(TEXT, max_size=20))
    def test_any_argument_and_any_variable_arrive_unchanged(
        self, words: list[str], values: list[str]
    ) -> None:
        self.arrive([*words, *NAMED], {f"V{n}": value for n, value in enumerate([*values, *NAMED])})

    def arrive(self, words: list[str], env: dict[str, str]) -> None:
        code = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
        pairs = [f"{name}={value}" for name, value in env.items()]
        exit_code, paths = self.run(sh("env", *pairs, "python3", "-c", code, *words))
        assert exit_code == 0
        argv, environ = json.loads(self.log(paths))
        assert argv == words
        assert {name: environ[name] for name in env} == env

    @pytest.mark.soak
    @settings(max_examples=soak_size(100, 5), suppress_health_check=EACH)
    @given(st.text(st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",)), min_size=1))
    def test_any_name_of_a_phase_is_a_folder(self, name: str) -> None:
        exit_code, paths = self.python("print('here')", self.paths(f"p{name[:40]}"))
        assert (exit_code, self.log(paths)) == (0, b"here\n")


class TestLocal(ExecutorSuite):
    def made(self, machine: Machine) -> Executor:  # noqa: ARG002
        return Local(self.here, self.root / "venv")

    def test_a_run_is_known_by_its_lock_also_where_there_is_no_flock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "flock").write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / "flock").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        paths = self.started("import time; print('up'); time.sleep(60)")
        assert self.state(paths).state is RunState.RUNNING
        os.killpg(os.getpgid(int((self.root / paths.pid).read_text())), signal.SIGKILL)
        assert self.state(paths).state is RunState.LOST

    def test_a_run_that_lost_its_power_is_lost_whoever_has_its_number_now(self) -> None:
        paths = self.started("import time; print('up'); time.sleep(60)")
        os.killpg(os.getpgid(int((self.root / paths.pid).read_text())), signal.SIGKILL)
        with subprocess.Popen(["sleep", "60"]) as other:
            (self.root / paths.pid).write_text(f"{other.pid}\n")
            assert self.state(paths).state is RunState.LOST
            assert self.take(self.executor.logs(paths, None)[-1]) == 137
            self.take(self.executor.stop(paths))
            assert other.poll() is None
            other.kill()


class TestSsh(ExecutorSuite):
    def made(self, machine: Machine) -> Executor:
        route = Route(machine.alias, machine.ssh_config)
        self.machine = machine
        self.there = f"~/{uuid4().hex[:6]} {HOSTILE_NAME}"
        return Ssh(Remote(route, self.there, self.here), "venv")

    def consented(self, paths: RunPaths, command: Command) -> None:
        """Here is the plan of a run of this name with this command."""
        token = Submission(command, paths, is_adhoc=True).token
        (self.root / paths.plan).write_text(json.dumps({"token": token}))

    def test_a_run_of_the_same_name_that_another_plan_started_is_left_alone(self) -> None:
        paths = self.paths()
        (self.root / paths.folder).mkdir(parents=True)
        theirs = Submission(sh("bash", "-c", "echo theirs; exec sleep 60"), paths, is_adhoc=True)
        assert self.take(self.executor.submit(theirs)[0]) == 0
        self.consented(paths, sh("python3", "ours.py"))
        (self.root / paths.log).write_text("ours\n")
        assert self.state(paths) == RunStatus(RunState.ABSENT, is_anothers=True)
        follow = self.executor.logs(paths, None)[-1]
        assert [self.take(step) for step in (follow, self.executor.stop(paths))] == [69, 69]
        assert self.log(paths) == b"ours\n"
        assert not (self.root / paths.exit_code).exists()
        (self.root / paths.plan).unlink()
        assert self.state(paths).state is RunState.RUNNING
        assert self.take(self.executor.stop(paths)) == 0

    def test_six_starts_at_once_are_one_run(self) -> None:
        paths = self.paths()
        (self.root / paths.folder).mkdir(parents=True)
        count = sh("bash", "-c", "echo ran; sleep 0.5")
        start, follow = self.executor.submit(Submission(count, paths, is_adhoc=True))
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(self.take, [start] * 6)) == [0] * 6
        assert self.take(follow) == 0
        assert self.log(paths) == b"ran\n"

    def test_a_start_that_finds_no_room_does_not_happen_later(self) -> None:
        paths = self.paths()
        (self.root / paths.folder).mkdir(parents=True)
        start, follow = self.executor.submit(Submission(sh("echo", "ran"), paths, is_adhoc=True))
        room = home_or_path(f"{self.there}/{paths.folder}/reserved")
        self.machine.ssh(sh("mkdir", "-p", room).text)  # so that there is none for its last words
        assert self.take(start) == 74
        assert self.state(paths).state is RunState.ABSENT
        self.machine.ssh(sh("rmdir", room).text)
        assert [self.take(step) for step in (start, start, follow)] == [0, 0, 0]
        assert self.log(paths) == b"ran\n"

    def test_following_ends_where_the_root_is_gone(self) -> None:
        _, paths = self.python("print('it was')")
        (self.root / paths.exit_code).unlink()
        self.machine.ssh(sh("rm", "-rf", home_or_path(self.there)).text)
        assert self.state(paths).state is RunState.ABSENT
        assert self.take(self.executor.logs(paths, None)[-1]) == 69
        assert self.log(paths) == b"it was\n"

"""A runner that is warm: forks itself for each command line it reads, and kills the fork when told to.

Run as a program. Reads lines of JSON from stdin: a list of {"args", "out", "kill_after"}, run side by
side; answers each line with the list of their exit codes (-9 for a killed one). Starting the runner
anew for each of a thousand launches would be a test of the interpreter's start.
"""

import json
import os
import signal
import sys
import time
import traceback
from typing import Any

# imported before the forks, which find them warm
import httpx  # noqa: F401
import hydra  # noqa: F401

import runner.cli
import runner.config.freeze
import runner.consent
import runner.machines.launch
import runner.machines.status
import runner.machines.terminate
import runner.view.tables
import runner.world.http


def fork(job: dict[str, Any]) -> int:
    """Start one command line; its output goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        out = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.argv = ["-m", *job["args"]]
        code = runner.cli.main()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end(pid: int, kill_at: float | None) -> int:
    """Wait for a fork, or kill it at its time; -9, or its exit code."""
    while kill_at is not None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= kill_at:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        jobs = json.loads(line)
        started = time.monotonic()
        pids = [fork(job) for job in jobs]
        kills = [None if job["kill_after"] is None else started + job["kill_after"] for job in jobs]
        codes = [end(pid, kill) for pid, kill in zip(pids, kills, strict=True)]
        print(json.dumps(codes), file=answers, flush=True)


if __name__ == "__main__":
    main()

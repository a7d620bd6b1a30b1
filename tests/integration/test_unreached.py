"""A machine that rsync does not reach is told from a quarrel of two rsyncs, by real bash."""

import os
import subprocess
from pathlib import Path

import pytest

from runner.plan.command import Command, Route

ROUTE = Route("lambda")
COPY = ROUTE.rsync_or_255(f"{ROUTE.rsync('-t', there=Command('cd x')).text} a {ROUTE.remote_dot}")


@pytest.mark.parametrize(
    ("rsync", "ssh", "expected"),
    [
        (0, 255, 0),
        (12, 255, 255),  # its ssh died: nobody answers
        (255, 255, 255),
        (12, 0, 12),  # the machine answers: the error is rsync's own
        (23, 255, 23),
    ],
)
def test_an_unreached_machine_is_255_whatever_rsync_makes_of_it(
    rsync: int, ssh: int, expected: int, tmp_path: Path
) -> None:
    for name, code in (("rsync", rsync), ("ssh", ssh)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    text = f"(set -o pipefail; printf x | {COPY} && echo on)"
    done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (expected, "" if expected else "on\n")

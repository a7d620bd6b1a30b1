"""The rehearsal that a newcomer runs, as it is: rent, train, lose the link, follow, bring home, terminate."""

import subprocess

from tests.support import CHECKOUT, PYTHON


def test_the_rehearsal_ends_with_nothing_lost_and_nothing_running() -> None:
    words = [PYTHON, "-m", "tests.rehearsal", "15"]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "files are the same at both ends" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Rehearsed")

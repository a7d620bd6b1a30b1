"""What a terminal shows: output as it comes, bars that stay bars, colours for those who want them."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import PYTHON, Lab, runner_env

TRAIN = ("phase=phase1", "action=train")
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
BAR = (
    "import sys, time\n"
    "for n in (10, 20, 30):\n    print(f'\\r{n}% ' + '#' * n, end='', flush=True); time.sleep(0.3)\n"
    "print('\\nall done')"
)


def on_terminal(
    *args: str, env: dict[str, str], columns: int = 80, answer: bytes = b""
) -> tuple[int, list[tuple[float, bytes]]]:
    """The runner on a terminal: its exit code, and what it showed when (seconds, bytes)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm"} | {name: value for name, value in env.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [PYTHON, "-m", "runner", *args], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, answer)
    shown = []
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not data:
            break
        shown.append((time.monotonic(), data))
    os.close(ours)
    return process.wait(10), shown


def test_a_progress_bar_stays_one_and_comes_live(research_log: Lab, home: Path) -> None:
    research_log.add_phase(script=BAR)
    code, shown = on_terminal(*TRAIN, "confirm=true", *research_log.args, env=runner_env(home))
    text = b"".join(data for _, data in shown)
    assert code == 0, text
    bars = [b"\r%d%% " % n + b"#" * n for n in (10, 20, 30)]
    assert b"".join(bars) in text
    times = [next(at for at, data in shown if bar[-12:] in data and bar[:4] in data) for bar in bars]
    assert times[1] - times[0] > 0.1  # not all at once at the end
    assert times[2] - times[1] > 0.1


@pytest.mark.parametrize("answer", [b"y\n", b"YES\n", b"\n", b"n\n", b"yes please\n", b"\x04"])
def test_a_person_who_is_asked_has_to_say_yes(answer: bytes, research_log: Lab, home: Path) -> None:
    folder = research_log.add_phase()
    words = (*TRAIN, "confirm=ask", *research_log.args)
    code, shown = on_terminal(*words, env=runner_env(home, {"NO_COLOR": "1"}), answer=answer)
    text = b"".join(data for _, data in shown)
    said_yes = answer in (b"y\n", b"YES\n")
    assert (code, (folder / "runs").exists()) == ((0, True) if said_yes else (77, False)), text
    assert text.count(b"Plan p") == text.count(b"Run exactly this? [y/N]") == 1


def test_the_job_knows_how_wide_the_terminal_is(research_log: Lab, home: Path) -> None:
    script = "import os; print('wide', os.environ['COLUMNS'], 'bar', os.environ['TQDM_NCOLS'])"
    research_log.add_phase(script=script)
    _, shown = on_terminal(*TRAIN, "confirm=true", *research_log.args, env=runner_env(home), columns=123)
    assert b"wide 123 bar 122" in b"".join(data for _, data in shown)


@pytest.mark.parametrize(
    ("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_those_who_want_them(
    extra: dict[str, str], coloured: bool, research_log: Lab, home: Path
) -> None:
    research_log.add_phase()
    env = runner_env(home, dict(extra))
    code, shown = on_terminal(*TRAIN, *research_log.args, env=env)
    text = b"".join(data for _, data in shown)
    assert code == 0
    assert bool(COLOUR.search(text)) is coloured


def test_colours_vanish_in_a_pipe(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(script="raise SystemExit(1)")
    done = runner(*TRAIN, "confirm=true", *research_log.args)
    assert "\x1b" not in done.stdout + done.stderr


def test_the_plan_is_the_same_on_a_terminal_of_any_width(research_log: Lab, home: Path) -> None:
    research_log.add_phase()
    texts = set()
    for columns in (40, 80, 200):
        _, shown = on_terminal(*TRAIN, *research_log.args, env=runner_env(home), columns=columns)
        texts.add(b"".join(data for _, data in shown))
    assert len(texts) == 1


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LANG": "en_US.ISO-8859-1"}]
)
def test_any_locale_gets_utf8(env: dict[str, str], research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(args={"text": "李明"})
    done = runner(*TRAIN, *research_log.args, env=dict(env))
    assert done.exit_code == 0, done
    assert "李明" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_matter(closed: str, research_log: Lab, home: Path) -> None:
    folder = research_log.add_phase()
    words = shlex.join([PYTHON, "-m", "runner", *TRAIN, "confirm=true", *research_log.args])
    done = subprocess.run(["bash", "-c", f"{words} {closed}"], env=runner_env(home), check=False)
    assert done.returncode == 0
    assert (folder / "run.log").read_text() == "ran\n"

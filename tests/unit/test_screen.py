"""The screen: live, repeats collapsed for the eye, and nothing lost."""

import io
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runner.world.live import Progress
from runner.world.screen import Screen

LINES = st.lists(st.sampled_from([b"a", b"b", b"warning: x", b"", b" 10%\r 20%\r 30%"]), max_size=30)
REPEATED = re.compile(rb"  \xe2\x80\xa6 repeated (\d+) more times?\n")


def shown(chunks: list[bytes]) -> bytes:
    out = io.BytesIO()
    screen = Screen(out)
    for chunk in chunks:
        screen.write(chunk)
    screen.close()
    return out.getvalue()


def expanded(text: bytes) -> bytes:
    """What was written, from what was shown: each count becomes the lines it stands for."""
    lines: list[bytes] = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", text):
        if match := REPEATED.fullmatch(line):
            lines += [lines[-1]] * int(match[1])
        else:
            lines.append(line)
    return b"".join(lines)


def cut(text: bytes, at: list[int]) -> list[bytes]:
    places = sorted({min(place, len(text)) for place in at} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(places)]


@given(LINES, st.lists(st.integers(0, 300), max_size=20))
def test_nothing_is_lost_however_it_is_cut(lines: list[bytes], at: list[int]) -> None:
    written = b"".join(line + b"\n" for line in lines)
    assert expanded(shown(cut(written, at))) == written


@given(LINES)
def test_no_line_is_shown_twice_in_a_row_when_it_comes_whole(lines: list[bytes]) -> None:
    rows = [
        row for row in shown([line + b"\n" for line in lines]).split(b"\n")[:-1] if b"repeated" not in row
    ]
    assert all(one != two for one, two in pairwise(rows))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_pass(chunks: list[bytes]) -> None:
    written = b"".join(chunks)
    kept = expanded(shown(chunks))
    assert kept == written or kept == written + b"\n"


def test_a_progress_bar_is_shown_as_it_moves() -> None:
    out = io.BytesIO()
    screen = Screen(out)
    seen = []
    for percent in (10, 20, 30):
        screen.write(b"\r%d%%" % percent)
        seen.append(out.getvalue())
    assert seen == [b"\r10%", b"\r10%\r20%", b"\r10%\r20%\r30%"]


def test_an_endless_progress_bar_takes_no_memory() -> None:
    screen = Screen(io.BytesIO())
    for step in range(20_000):
        screen.write(b"\r step %d of many, and a long tail of words" % step)
    assert len(screen._partial) < 200_000


def test_a_repeat_is_told_when_something_else_comes() -> None:
    assert shown([b"x\n" * 5, b"y\n"]) == "x\n  … repeated 4 more times\ny\n".encode()
    assert shown([b"x\nx\n"]) == "x\n  … repeated 1 more time\n".encode()


def test_the_last_lines_are_kept_for_the_failure_message() -> None:
    screen = Screen(io.BytesIO())
    screen.write(b"".join(b"%d\n" % n for n in range(30)) + b"the end")
    screen.close()
    assert list(screen.last_lines) == [*(b"%d" % n for n in range(21, 30)), b"the end"]


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    screen = Screen(io.BytesIO())
    screen.write(b"10%\r20%\r30%\n")
    assert list(screen.last_lines) == [b"30%"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(out: io.StringIO, *lines: str) -> str:
    shown = Progress(out)
    for line in lines:
        shown.show(line)
        shown.erase()
    return out.getvalue()


WAITING = ("booting, 5 s, $0.01", "booting, 10 s, $0.02", "ssh answers, 15 s", "ssh answers, 20 s")


def test_progress_in_a_pipe_is_a_line_for_each_thing_that_happens() -> None:
    assert progress(io.StringIO(), *WAITING) == f"{WAITING[0]}\n{WAITING[2]}\n"


def test_progress_on_a_terminal_shows_every_figure_and_leaves_what_happened() -> None:
    text = progress(Terminal(), *WAITING)
    assert all(line in text for line in WAITING)
    kept = [line.rpartition("\r")[2] for line in text.split("\n")]
    assert kept == [WAITING[0], WAITING[2], ""]

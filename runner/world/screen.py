"""What a person sees while a job runs: its output live, with repeated lines collapsed."""

import threading
from collections import deque
from typing import BinaryIO

_KEPT_LINES = 10


class Screen:
    """Passes bytes on as they come; a line equal to the one before it is counted instead of shown.

    A progress bar (text behind a carriage return) stays one. `last_lines` keeps what came last, for
    the message after a failure.
    """

    def __init__(self, out: BinaryIO) -> None:
        self.out = out
        self.is_terminal = out.isatty()
        self.is_gone = False  # the terminal was closed, or the reader of the pipe is done: the job goes on
        self._lock = threading.Lock()  # a step's two streams come from two threads
        self.last_lines: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._partial = b""  # the line that has not ended yet
        self._num_shown = 0  # how much of it is on the screen
        self._previous: bytes | None = None
        self._num_repeats = 0

    def write(self, data: bytes) -> None:
        """Show these bytes."""
        with self._lock:
            *lines, rest = (self._partial + data).split(b"\n")
            for line in lines:
                self._end_line(line)
            self._partial = rest
            if rest and not self._may_repeat(rest):
                self._show_part(rest)
            self._put(b"")

    def close(self) -> None:
        """Show what was held back; the screen ends at the start of a line."""
        if self._partial:
            self._end_line(self._partial)
        self._partial = b""
        self._tell_repeats()
        self._put(b"")

    def _put(self, data: bytes) -> None:
        """To the screen while somebody looks; an empty write flushes."""
        try:
            if data and not self.is_gone:
                self.out.write(data)
            elif not self.is_gone:
                self.out.flush()
        except OSError:
            self.is_gone = True

    def _may_repeat(self, part: bytes) -> bool:
        return self._num_shown == 0 and self._previous is not None and self._previous.startswith(part)

    def _show_part(self, part: bytes) -> None:
        self._tell_repeats()
        self._put(part[self._num_shown :])
        self._num_shown = len(part)
        # a bar redraws its line for ever: forget what a carriage return overwrote
        kept = part.rfind(b"\r")
        if kept > 0 and self._num_shown > 1 << 16:
            self._partial, self._num_shown = part[kept:], len(part) - kept

    def _end_line(self, line: bytes) -> None:
        if self._num_shown == 0 and line == self._previous:
            self._num_repeats += 1
        else:
            self._tell_repeats()
            self._put(line[self._num_shown :] + b"\n")
            self.last_lines.append(line.rpartition(b"\r")[2] or line)
        self._previous, self._num_shown = line, 0

    def _tell_repeats(self) -> None:
        if self._num_repeats:
            times = "time" if self._num_repeats == 1 else "times"
            self._put(f"  … repeated {self._num_repeats} more {times}\n".encode())
        self._num_repeats = 0

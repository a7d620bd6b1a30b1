"""Runs one step through bash by way of invoke, in constant memory, and knows how to stop it."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from shutil import get_terminal_size
from typing import Any

from invoke.context import Context
from invoke.runners import Local

from runner.research_log.code import ELSEWHERE
from runner.world.screen import Screen

_POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _interrupts_call(handle: Callable[[], None]) -> Iterator[None]:
    """Inside, each of the signals calls `handle`; one that was ignored before (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    caught = {number: signal.getsignal(number) for number in _POLITE}
    for number, before in caught.items():
        if before is not signal.SIG_IGN:
            signal.signal(number, lambda *_: handle())
    try:
        yield
    finally:
        for number, before in caught.items():
            signal.signal(number, before)


_BASH = "/bin/bash"

# What each Ctrl-C sends to the job: ask, insist, end.
_ESCALATION = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class _Bash(Local):
    """invoke's local runner with three habits of its own.

    Output is handed to the screen as bytes and not kept: invoke joins all it ever read at each read,
    which is quadratic (invoke 3.0, Runner.respond). Input is closed. A step with a log has a process
    group of its own, so that Ctrl-C reaches it by us alone and can become stronger.
    """

    def __init__(self, screen: Screen, has_log: bool) -> None:
        super().__init__(Context())
        self.screen = screen
        self.has_log = has_log
        self.num_interrupts = 0
        self.started: subprocess.Popen[bytes] | None = None

    def start(self, command: str, shell: str, env: dict[str, Any]) -> None:
        """`bash -c` with the very text."""
        shown = None if self.screen.is_terminal else subprocess.PIPE
        if self.screen.is_terminal:  # for progress bars, which cannot ask a pipe for its width
            size = get_terminal_size()
            width = {"COLUMNS": str(size.columns), "LINES": str(size.lines)}
            env = {"TQDM_NCOLS": str(size.columns - 1), **env, **width}  # tqdm 4.70 reads its own name only
        if not self.has_log:  # these would lead the git of our lines elsewhere; a job gets them as they are
            env = {name: value for name, value in env.items() if name not in ELSEWHERE}
        # flushed first: a child that inherits the terminal writes behind what we wrote
        self.screen.out.flush()
        self.process = self.started = subprocess.Popen(
            [shell, "-c", command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if self.has_log else shown or self.screen.out,
            stderr=subprocess.PIPE if self.has_log else shown,
            process_group=0 if self.has_log else None,
        )
        if self.num_interrupts:  # it came while the process was being made
            self._signal(_ESCALATION[0])

    def read_proc_stdout(self, num_bytes: int) -> bytes | None:
        """All of it to the screen; nothing for invoke to keep."""
        self._drain(self.process.stdout, num_bytes)
        return None

    def read_proc_stderr(self, num_bytes: int) -> bytes | None:
        """As stdout."""
        self._drain(self.process.stderr, num_bytes)
        return None

    def _drain(self, stream: Any, num_bytes: int) -> None:
        while stream and (data := os.read(stream.fileno(), num_bytes)):
            self.screen.write(data)

    def interrupt(self) -> None:
        """Each Ctrl-C is stronger than the one before; a job that ignores the first gets the next in time."""
        how = _ESCALATION[min(self.num_interrupts, len(_ESCALATION) - 1)]
        self.num_interrupts += 1
        self._signal(how)
        timer = threading.Timer(10, self._insist)
        timer.daemon = True
        timer.start()

    def _insist(self) -> None:
        if self.is_alive():
            self.interrupt()

    def is_alive(self) -> bool:
        """Whether any of its processes is there; the shell may be gone before the job that it started."""
        if self.started is None or not self.has_log:
            return self.started is not None and self.started.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(self.started.pid, 0)
            return True
        return False

    def _signal(self, how: signal.Signals) -> None:
        if self.started is None:
            return
        with suppress(ProcessLookupError):
            if self.has_log:
                os.killpg(self.started.pid, how)
            else:
                self.started.send_signal(how)


def run_bash(text: str, screen: Screen, has_log: bool, timeout_s: float | None) -> tuple[int, bool]:
    """Run the text; its exit code as a shell tells it (128 + signal), and whether we were interrupted."""
    from invoke.exceptions import CommandTimedOut

    bash = _Bash(screen, has_log)
    try:
        with _interrupts_call(bash.interrupt):
            result = bash.run(text, shell=_BASH, hide=True, warn=True, in_stream=False, timeout=timeout_s)
            while bash.num_interrupts and bash.is_alive():
                time.sleep(0.02)
        code = result.exited
    except CommandTimedOut:
        code = 124
    return (code if code >= 0 else 128 - code), bash.num_interrupts > 0

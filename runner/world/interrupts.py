"""Ctrl-C, a polite kill and a closed terminal as a call, where an exception at any line would lose a job."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupts_call(handle: Callable[[], None]) -> Iterator[None]:
    """Inside, each of the signals calls `handle`; one that was ignored before (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    caught = {number: signal.getsignal(number) for number in POLITE}
    for number, before in caught.items():
        if before is not signal.SIG_IGN:
            signal.signal(number, lambda *_: handle())
    try:
        yield
    finally:
        for number, before in caught.items():
            signal.signal(number, before)

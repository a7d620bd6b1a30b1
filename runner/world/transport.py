"""The one door to the world: shell commands, HTTP requests and the clock."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from runner.errors import Bug
from runner.facts.fact import Asking, Fact, Result
from runner.plan.command import Command
from runner.plan.plan import Request, Step
from runner.world.screen import Screen

T = TypeVar("T")
R = TypeVar("R")


class Transport(Protocol):
    """What the core may ask of the world."""

    def ask(self, command: Command) -> Result:
        """Run a question, quietly; no shell where none is needed."""

    def shell(self, step: Step, screen: Screen, on_start: Callable[[int], None]) -> Result:
        """Run an effect through bash and show its output; `on_start` gets the process id."""

    def http(self, request: Request) -> Result:
        """Send a request."""

    def now(self) -> float:
        """Seconds since the epoch."""


class Real:
    """The real world."""

    def ask(self, command: Command) -> Result:
        """Captured whole: for questions whose answers are short."""
        words = list(command.argv) or ["/bin/bash", "-c", command.text]
        started = self.now()
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except FileNotFoundError as error:
            return Result(127, stderr=str(error).encode(), started_at=started)
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Result(code, done.stdout, done.stderr, started, self.now() - started)

    def shell(self, step: Step, screen: Screen, on_start: Callable[[int], None]) -> Result:
        """The very string, in `bash -c`. What a command logs to a file is shown from that file."""
        from runner.world.bash import run_bash

        started = self.now()
        log = step.action.log if isinstance(step.action, Command) else None
        echo = LogEcho(Path(log), screen) if log else None
        try:
            code, interrupted = run_bash(step.command, screen, bool(echo), step.timeout_s, on_start)
        finally:
            if echo:
                echo.stop()
        return Result(code, started_at=started, seconds=self.now() - started, interrupted=interrupted)

    def http(self, request: Request) -> Result:
        """Not before the cloud is here."""
        raise Bug(f"nobody can send {request.method} {request.url} yet")

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()


class LogEcho:
    """Shows what is appended to a log file, from its present end, until stopped; memory stays constant."""

    def __init__(self, path: Path, screen: Screen) -> None:
        self.path = path
        self.screen = screen
        self.offset = path.stat().st_size if path.exists() else 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show the rest, then end."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            over = self._over.wait(0.05)  # looked at before the last read, so that nothing is missed
            while self._show_some():
                pass
            if over:
                return

    def _show_some(self) -> bool:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(1 << 18)
        except OSError:
            return False
        if data:
            self.screen.write(data)
        self.offset += len(data)
        return bool(data)


def observe(transport: Transport, fact: Fact[T]) -> T:
    """Where a question meets its reading."""
    asked = transport.ask(fact.ask) if isinstance(fact.ask, Command) else transport.http(fact.ask)
    return fact.read(asked)


def answer(transport: Transport, asking: Asking[R]) -> R:
    """Drive a verb's questions to its Plan or Report."""
    try:
        fact: Fact[Any] = next(asking)
        while True:
            fact = asking.send(observe(transport, fact))
    except StopIteration as done:
        result: R = done.value
        return result

"""The one door to the world: shell commands, HTTP requests and the clock."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, Protocol, TextIO, TypeVar

from runner.errors import Bug, RunnerError
from runner.plan.command import Command
from runner.plan.plan import Request, Step, WriteFile
from runner.research_log.code import ELSEWHERE
from runner.world.screen import Screen
from runner.world.world import Account, Asking, Fact, Pause, Question, Record, Result

T = TypeVar("T")
R = TypeVar("R")


class Transport(Protocol):
    """What the core may ask of the world."""

    def ask(self, command: Command) -> Result:
        """Run a question, quietly; no shell where none is needed."""

    def shell(self, step: Step, screen: Screen) -> Result:
        """Run an effect through bash and show its output."""

    def write(self, file: WriteFile, screen: Screen) -> Result:
        """Write a file, and show what kept it from being written."""

    def http(self, request: Request) -> Result:
        """Send a request."""

    def pause(self, seconds: float, line: str) -> None:
        """Let time pass, and tell a person why."""

    def record(self, entry: dict[str, Any]) -> None:
        """Keep an entry of the ledger."""

    def has_rented(self) -> bool:
        """Whether there is a ledger: something was asked of the cloud from here."""

    def claim(self, name: str) -> AbstractContextManager[None]:
        """Alone with the launch of this name; Refused when it is, or was, somebody else's."""

    def account(self, base_url: str) -> str:
        """Who asks this cloud, as a fingerprint."""

    def now(self) -> float:
        """Seconds since the epoch."""


class Live:
    """The real world. All waiting for the cloud takes `time_scale` of its usual time."""

    def __init__(self, ledger: Path | None = None, time_scale: float = 1.0) -> None:
        self.ledger = ledger
        self.time_scale = time_scale
        self._cloud: Any = None
        self._progress = Progress(sys.stderr)

    def ask(self, command: Command) -> Result:
        """Captured whole: for questions whose answers are short."""
        words = list(command.argv) or ["/bin/bash", "-c", command.text]
        started = self.now()
        try:
            env = _for_git() if words[0] == "git" else None
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=env)
        except FileNotFoundError as error:
            return Result(127, stderr=str(error).encode(), started_at=started)
        code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Result(code, done.stdout, done.stderr, started, self.now() - started)

    def shell(self, step: Step, screen: Screen) -> Result:
        """The very string, in `bash -c`. What a command logs to a file is shown from that file."""
        from runner.world.process import run_bash

        started = self.now()
        log = step.action.log if isinstance(step.action, Command) else None
        echo = _LogEcho(Path(log), screen) if log else None
        try:
            code, interrupted = run_bash(step.command, screen, bool(echo), step.timeout_s)
        finally:
            if echo:
                echo.stop()
        return Result(code, started_at=started, seconds=self.now() - started, interrupted=interrupted)

    def write(self, file: WriteFile, screen: Screen) -> Result:
        """Whole or not at all; refused (77) when the file is not as it was seen."""
        from runner.world.files import write_file

        started = self.now()
        code = 0
        try:
            write_file(file)
        except RunnerError as error:
            code = 0 if file.otherwise else error.exit_code
            screen.write((file.otherwise or error.message).encode(errors="surrogateescape") + b"\n")
        return Result(code, started_at=started, seconds=self.now() - started)

    def http(self, request: Request) -> Result:
        """The request as it is, with the key from the environment; a GET is asked again when it failed."""
        if self._cloud is None:
            from runner.world.http import Cloud

            self._cloud = Cloud(self.time_scale, self.pause)
        result: Result = self._cloud.send(request)
        return result

    def pause(self, seconds: float, line: str) -> None:
        """Sleep, with a line of progress."""
        self._progress.show(line)
        try:
            time.sleep(seconds * self.time_scale)
        finally:
            self._progress.erase()

    def record(self, entry: dict[str, Any]) -> None:
        """Onto the ledger, and to the disk."""
        if self.ledger is None:
            raise Bug("nobody said where the ledger is")
        from runner.world.files import append

        append(self.ledger, entry | {"at": self.now()})

    def has_rented(self) -> bool:
        """Whether there is a ledger."""
        return self.ledger is not None and self.ledger.exists()

    def claim(self, name: str) -> AbstractContextManager[None]:
        """By a lock beside the ledger, and by what the ledger says."""
        if self.ledger is None:
            raise Bug("nobody said where the ledger is")
        from runner.world.files import only_launch

        return only_launch(self.ledger.parent, name)

    def account(self, base_url: str) -> str:
        """Of the address, and of the key from the environment."""
        from runner.world.http import fingerprint

        return fingerprint(base_url)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()


def _for_git() -> dict[str, str]:
    """The variables with which git answers of the repository that is meant, in words that can be read."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return kept | {"LC_ALL": "C"}


class Progress:
    """One line of progress at a time, told when its words change; figures change all the time.

    A line that differs in its figures alone is shown on a terminal until `erase`; elsewhere it is told
    again only after `quiet_s` seconds.
    """

    def __init__(self, out: TextIO, quiet_s: float = 60.0) -> None:
        self.out = out
        self.quiet_s = quiet_s
        self._words = ""
        self._told_at = 0.0
        self._fleeting = ""

    def show(self, line: str) -> None:
        """Show this line, or nothing if it says nothing new to whoever reads here."""
        words = re.sub(r"[\d.,]+", "", line)
        now = time.monotonic()
        if words == self._words and self.out.isatty():
            self._fleeting = line[: get_terminal_size().columns - 1]
            print(self._fleeting, end="", file=self.out, flush=True)
        elif line and (words != self._words or now - self._told_at >= self.quiet_s):
            self._words, self._told_at = words, now
            print(line, file=self.out, flush=True)

    def erase(self) -> None:
        """Take a fleeting line off the terminal, so that what comes next stands where it stood."""
        if self._fleeting:
            print("\r" + " " * len(self._fleeting), end="\r", file=self.out, flush=True)
        self._fleeting = ""


class _LogEcho:
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
    return drive(asking, lambda question: _reply(transport, question))


def drive(asking: Asking[R], reply_to: Callable[[Question], Any]) -> R:
    """Runs the questions to their result, answering each by `reply_to`; a RunnerError is thrown into them."""
    try:
        question = next(asking)
        while True:
            try:
                given = reply_to(question)
            except RunnerError as error:
                question = asking.throw(error)
            else:
                question = asking.send(given)
    except StopIteration as done:
        result: R = done.value
        return result


def _reply(transport: Transport, question: Question) -> Any:
    """What the world says to one question."""
    if isinstance(question, Fact):
        return observe(transport, question)
    if isinstance(question, Pause):
        return transport.pause(question.seconds, question.line)
    if isinstance(question, Record):
        return transport.record(dict(question.entry))
    if isinstance(question, Account):
        return transport.account(question.base_url)
    return transport.now()

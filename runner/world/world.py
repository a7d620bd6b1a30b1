"""A fact: a question for the world, and a pure reading of the answer."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from runner.plan.command import Command
from runner.plan.plan import Request

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Result:
    """What came back: of a process its exit code as the shell tells it, of a request its HTTP `status`.

    `interrupted`: a person asked for its end.
    A process that a signal ended has exit code 128 + signal, whether it was told as -9 or as 137.
    """

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    started_at: float = 0.0
    seconds: float = 0.0
    status: int | None = None
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Whether it did what it was asked."""
        return self.exit_code == 0 and (self.status is None or 200 <= self.status < 300)

    @property
    def signal(self) -> int | None:
        """The signal behind the exit code, if there was one."""
        return self.exit_code - 128 if 128 < self.exit_code < 165 else None


@dataclass(frozen=True)
class Fact(Generic[T]):
    """`read` gets the Result of asking, whatever its exit code, and gives the fact."""

    ask: Command | Request
    read: Callable[[Result], T]


@dataclass(frozen=True)
class Pause:
    """Let `seconds` pass; `line` is the progress that a person sees meanwhile."""

    seconds: float
    line: str = ""


@dataclass(frozen=True)
class Now:
    """What the clock says, in seconds since the epoch."""


@dataclass(frozen=True)
class Account:
    """Whose machines this cloud tells us of: a fingerprint of its address and of our key."""

    base_url: str


@dataclass(frozen=True)
class Record:
    """Put this entry at the end of the ledger, on disk before anything else happens."""

    entry: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(event: str, **values: Any) -> "Record":
        """An entry of this kind; the time is added by whoever writes it."""
        return Record((("event", event), *values.items()))


Question = Fact[Any] | Pause | Now | Account | Record

# A verb asks for the facts it needs, one after the other, and returns what it makes of them.
# It is a generator so that it stays pure: the caller observes, a test answers from a list.
Asking = Generator[Question, Any, R]


def documents_of(result: Result) -> list[dict[str, Any]] | None:
    """What the shim answered; None where the answer is not whole, whatever its exit code."""
    from runner.shim import documents_in

    documents: list[dict[str, Any]] | None = documents_in(result.stdout)
    return documents

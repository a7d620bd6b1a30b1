"""What can go wrong, as one tree; each leaf knows the exit code that programs rely on.

RunnerError
├── UsageError      64   what was typed or configured cannot work
├── CheckFailed     65   what was checked does not hold: a preflight, a checksum
├── Unreachable     69   the cloud or the machine does not answer
├── TryLater        75   no capacity, or rate limited
├── Refused         77   a guard said no, or a digest names another plan
├── NeverStarted    the code of the step that failed before the job could start
└── Bug             70   a mistake of ours
"""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class RunnerError(Exception):
    """What happened, and in `hints` what to type or look at next, a line each."""

    exit_code = 70

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints


class UsageError(RunnerError):
    """The person's or the configuration's mistake; nothing was done."""

    exit_code = 64


class CheckFailed(RunnerError):
    """Two things that should agree do not."""

    exit_code = 65


class Unreachable(RunnerError):
    """Nobody answered; what is there is as it was."""

    exit_code = 69


class TryLater(RunnerError):
    """The same command may work in a while."""

    exit_code = 75


class Refused(RunnerError):
    """A guard said no; nothing was done."""

    exit_code = 77


class NeverStarted(RunnerError):
    """A run whose job was not reached; nothing of it is anywhere."""

    def __init__(self, exit_code: int, message: str, *hints: str) -> None:
        super().__init__(message, *hints)
        self.exit_code = exit_code


class Bug(RunnerError):
    """A promise of our own is broken."""


def choices(wrong: str, known: Iterable[str], noun: str) -> tuple[str, ...]:
    """The hint lines for a misspelt name: the near matches first, then all there are."""
    names = list(dict.fromkeys(known))
    near = get_close_matches(wrong, names, n=3, cutoff=0.6)
    near = [name for name in near if _alike(wrong, name) > _alike(wrong, near[0]) - 0.15]
    meant = (f"Did you mean {' or '.join(near)}?",) if near else ()
    listed = f"{noun}: {', '.join(names)}" if names else f"{noun}: there are none"
    return (*meant, listed)


def _alike(one: str, other: str) -> float:
    """From 0 to 1, by what two words have in common."""
    return SequenceMatcher(None, other, one).ratio()

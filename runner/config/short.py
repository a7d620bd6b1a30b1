"""What may be typed short: `args.lr=3` for an argument of the job, `phase=15` for phase15.yaml."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runner.config.schema import group_choices
from runner.errors import UsageError

_ARGUMENT = re.compile(r"(?P<sign>\+{0,2}|~)args\.(?P<rest>.+)", re.DOTALL)
_NUMBER = re.compile(r"phase=(\d+(?:\.\d+)?)")


def in_full(arguments: Sequence[str], folders: tuple[Path, ...]) -> list[str]:
    """The overrides as Hydra composes them. UsageError for `args.` without the job that they are of."""
    _refuse_spaces(arguments)
    action = _action_of(arguments)
    return [_argument_of(word, action) for word in with_phase_file(arguments, folders)]


def _refuse_spaces(arguments: Sequence[str]) -> None:
    """UsageError for `phase = phase15`, which a shell makes three words of."""
    for at in range(len(arguments) - 1):
        first, second, *third = arguments[at : at + 3]
        ends = first.endswith("=") and not re.match("-|.*=", second)
        begins = "=" not in first and not first.startswith("-") and second.startswith("=")
        if not ends and not begins:
            continue
        words = [first, second, *third] if second == "=" else [first, second]
        typed = " ".join(words)
        raise UsageError(f"{typed}: no spaces around =", f"Type: {shlex.quote(''.join(words))}")


def with_phase_file(arguments: Sequence[str], folders: tuple[Path, ...]) -> list[str]:
    """`phase=15` as the phase's file is called."""
    return [_file_of_number(word, folders) if _NUMBER.fullmatch(word) else word for word in arguments]


@contextmanager
def told_short(arguments: Sequence[str]) -> Iterator[None]:
    """What is wrong with an argument that was typed short is told in short words."""
    try:
        yield
    except UsageError as error:
        if any(_ARGUMENT.match(word) for word in arguments):
            long = f"phase.jobs.{_action_of(arguments)}.args."
            hints = (hint.replace(long, "args.") for hint in error.hints)
            raise UsageError(error.message.replace(long, "args."), *hints) from error
        raise


def _action_of(arguments: Sequence[str]) -> str:
    """The last action that was typed, as in Hydra."""
    return next((word.partition("=")[2] for word in reversed(arguments) if word.startswith("action=")), "")


def _argument_of(word: str, action: str) -> str:
    """`args.lr=3` as the key of the job's argument."""
    match = _ARGUMENT.fullmatch(word)
    if match is None:
        return word
    if not re.fullmatch(r"[\w-]+", action):
        raise UsageError(
            f"{word}: args.… are those of a job, and action= names none",
            "Say which job: phase=… action=train args.…",
        )
    return f"{match['sign']}phase.jobs.{action}.args.{match['rest']}"


def _file_of_number(word: str, folders: tuple[Path, ...]) -> str:
    """The one file that a number means, as a choice; else what the rest of the runner answers."""
    known, number = group_choices("phase", folders), word.partition("=")[2]
    if number in known:
        return word
    named = [stem for stem in known if re.fullmatch(rf"phase{re.escape(number)}(-.*)?", stem)]
    exact = f"phase{number}"
    return f"phase={exact if exact in named or len(named) != 1 else named[0]}"

"""Command lines of the runner for what comes next, configured as the one that was typed; the only door."""

import re
import shlex
from collections.abc import Sequence

from runner.plan.settings import Settings

# What belongs to one verb alone, and would be refused or mean something else behind another.
OF_ONE_VERB = (
    *("action", "command", "run", "lines", "resume", "discard"),
    *("wait_for_capacity", "budget_usd", "require_preflight"),
)

# Where things are: without these the same verb would look elsewhere.
_PLACES = re.compile(r"--config-dir|\+*(paths|remote|cloud|ssh)\.\w+")
# What kind of machine it is for, and what it is about. None of this is ever swept.
MACHINE = re.compile(rf"{_PLACES.pattern}|\+*instance(\.\w+)*")
_SUBJECT = re.compile(rf"{MACHINE.pattern}|machine|\+*phase(\.(?!jobs\.)\w+)*")

# Our own command line at the end of a text, by somebody who knows no Settings.
_GENERIC = re.compile(r"(?<![\w/])python -m runner(?P<words>( [\w.]+=\S+)*)$")


def spell_next(settings: Settings, action: str, *more: str, machine: str | None = None) -> str:
    """`python -m runner action=… machine=… …`; `more` takes the place of what was typed for the same keys."""
    words = [f"action={action}", *([f"machine={machine}"] if machine else [])]
    said = {key_of(word) for word in (*words, *more)} | set(OF_ONE_VERB)
    context = [word for word in without_sweep(settings.typed) if key_of(word) not in said]
    if action != settings.action:  # args.… are short for arguments of the job that was typed
        context = [word for word in context if not key_of(word).startswith("args.")]
    return line_of(settings, *words, *more, *context)


def repeat_line(settings: Settings, *more: str) -> str:
    """What was typed, with these instead of what it said for the same keys."""
    said = {key_of(word) for word in more}
    return line_of(settings, *(word for word in settings.typed if key_of(word) not in said), *more)


def overview_line(settings: Settings) -> str:
    """`discover`, with nothing but the places."""
    return line_of(settings, *places(settings))


def in_context(settings: Settings, text: str) -> str:
    """The text, whose last words may be a command line of ours by somebody who knew no Settings."""
    match = _GENERIC.search(text)
    if match is None:
        return text
    words = match["words"].split()
    missing = [word for word in places(settings, MACHINE) if shlex.quote(word) not in words]
    return text[: match.start()] + " ".join([settings.program, *words, *map(shlex.quote, missing)])


def line_of(settings: Settings, *words: str) -> str:
    """The words as a command line of this program."""
    return " ".join([settings.program, *map(shlex.quote, words)])


def places(settings: Settings, which: re.Pattern[str] = _PLACES) -> list[str]:
    """What was typed of where things are."""
    return [word for word in settings.typed if which.fullmatch(key_of(word, plus=True))]


def without_sweep(typed: Sequence[str]) -> list[str]:
    """What was typed; of a sweep, only what it is about, since a verb is no sweep."""
    if "-m" not in typed:
        return list(typed)
    return [word for word in typed if _SUBJECT.fullmatch(key_of(word, plus=True))]


def key_of(word: str, plus: bool = False) -> str:
    """The key of an override, however it was added."""
    return (word if plus else word.lstrip("+~")).partition("=")[0]

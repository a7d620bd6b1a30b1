"""Whether an environment still is what was installed: against its lock, itself, and the last setup."""

import re
from dataclasses import dataclass
from hashlib import sha256

from runner.facts.fact import Result
from runner.facts.packages import distribution
from runner.facts.preflights import Lock, pins_in
from runner.plan.command import Command, Word, spell

QUESTION = """\
PATH=~/.local/bin:$PATH; cd {root} && [ -x {venv}/bin/python ] || exit 3
{uv} pip freeze --python {venv}; echo "--- check"; {uv} pip check --python {venv} 2>&1
echo "--- setup $(cat {venv}/installed.sha256 2>/dev/null)"
"""


@dataclass(frozen=True)
class Drift:
    """What is not as it should be; all empty: nothing drifted."""

    differing: tuple[str, ...] = ()  # `torch 2.12.0 for 2.13.0`
    broken: tuple[str, ...] = ()  # what `uv pip check` says, a line each
    was_changed: bool = False  # by somebody else since the last setup

    @property
    def is_none(self) -> bool:
        """Whether all is as it was installed."""
        return not (self.differing or self.broken or self.was_changed)


def ask_drift(root: Word, venv: Word, uv: Word = "uv") -> Command:
    """The question about an environment, for this machine or another."""
    return Command(QUESTION.format(root=spell(root), venv=spell(venv), uv=spell(uv)))


def read_drift(result: Result, lock: Lock | None, overridden: tuple[str, ...] = ()) -> Drift | None:
    """From what uv says is installed, whether it fits together, and the sum that the last setup left.

    None when there is no environment or no answer. Nobody misses the packages that setup has `overridden`.
    """
    said = result.stdout.decode(errors="replace")
    match = re.fullmatch(r"(.*)--- check\n(.*)--- setup ?(\w*)\n", said, re.DOTALL)
    if match is None:
        return None
    frozen, checked, installed = match.groups()
    return Drift(
        differing=differing(dict(pins_in(frozen)), lock.pins if lock else ()),
        broken=tuple(line for line in checked.splitlines() if is_broken(line, overridden)),
        was_changed=bool(installed) and installed != sha256(frozen.encode()).hexdigest(),
    )


def is_broken(line: str, overridden: tuple[str, ...]) -> bool:
    """Whether `uv pip check` complains of what setup did not override."""
    match = re.match(r"The package `[^`]+` requires `([^`]+)`", line)
    return line.startswith("The package ") and not (match and distribution(match[1]) in overridden)


def differing(installed: dict[str, str], pins: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """What the lock names and the environment has otherwise, or not at all."""
    return tuple(
        f"{name} {installed.get(name, 'missing')} for {version}"
        for name, version in pins
        if installed.get(name) != version
    )

"""Command lines of the runner for what comes next, configured as the one that was typed."""

import shlex

from runner.plan.settings import Settings

# What belongs to one verb alone, and would be refused or mean something else behind another.
OF_ONE_VERB = ("action", "command", "run", "lines", "resume", "discard", "wait_for_capacity", "budget_usd")


def own_line(settings: Settings, action: str, machine: str | None = None, *more: str) -> str:
    """`python -m runner action=… machine=… …`; `more` takes the place of what was typed for the same keys."""
    words = [f"action={action}", *([f"machine={machine}"] if machine else [])]
    said = {word.partition("=")[0] for word in (*words, *more)} | set(OF_ONE_VERB)
    context = [word for word in settings.typed if word.partition("=")[0] not in said]
    return f"{settings.program} {shlex.join([*words, *context, *more])}"

"""Between a plan and its effects: shows it, and applies it only when this very plan was consented to."""

import sys
from contextlib import suppress
from typing import TextIO

from runner.errors import Refused
from runner.facts.ledger import read_ledger
from runner.plan.plan import Plan
from runner.plan.settings import Settings
from runner.view.json import plan_document, to_json
from runner.view.script import plan_script
from runner.view.text import Paint, consent_line, plan_text, plan_title, result_text
from runner.world.apply import apply
from runner.world.screen import Screen
from runner.world.state import run_that_spent
from runner.world.transport import Transport


def show_or_apply(plan: Plan, settings: Settings, transport: Transport, paint: Paint) -> int:
    """The exit code of showing the plan, of refusing it, or of carrying it out."""
    show(plan, settings, paint)
    agreed = settings.confirm in ("true", plan.digest)
    if settings.confirm == "false" or (agreed and not plan.steps and not plan.refused):
        return 0
    check_consent(plan, settings)
    sys.stdout.flush()
    is_data = settings.output != "text"  # then stdout holds documents, and all the talk is on stderr
    screen = Screen((sys.stderr if is_data else sys.stdout).buffer)
    talk = Paint(bool(paint.colour and sys.stderr.isatty()))
    result = apply(plan, transport, screen, lambda line: say(talk(f"[runner] {line}", "dim"), sys.stderr))
    if settings.output == "json":
        say(to_json(result.document()), sys.stdout)
    say(result_text(result, settings, result.last_lines, talk), sys.stderr)
    return result.exit_code


def say(text: str, stream: TextIO) -> None:
    """A line for whoever still listens: a closed terminal or pipe does not stop what was consented to."""
    with suppress(OSError):
        print(text, file=stream, flush=True)


def show(plan: Plan, settings: Settings, paint: Paint) -> None:
    """The plan in the form that was asked for; its title alone when its digest says that it was seen."""
    if settings.output == "json":
        print(to_json(plan_document(plan)), flush=True)
    elif settings.output == "script":
        print(plan_script(plan), end="", flush=True)
    elif settings.confirm == plan.digest:
        print(plan_title(plan, paint), flush=True)
    else:
        print(plan_text(plan, settings, paint), flush=True)


def check_consent(plan: Plan, settings: Settings) -> None:
    """Refused (77) unless the plan may run and the consent names it."""
    if plan.refused:
        raise Refused(f"{plan.action} is refused: {plan.reason}", "Nothing has run.")
    given = settings.confirm
    if given in ("true", plan.digest):
        return
    spent = None
    if settings.phase:
        spent = run_that_spent(given, settings.paths.research_log / settings.phase.name)
    spent = spent or read_ledger(settings.paths.state).spent(given)
    why = (
        f"{given} was spent by {spent}; a plan runs once"
        if spent
        else f"{given} is no plan that holds now: what was typed, the code or the machine differs from then"
    )
    raise Refused(
        f"{why}. The plan is now {plan.digest}, shown above.",
        "Nothing has run. To run the plan as it is now:",
        consent_line(plan, settings),
    )

"""Between a plan and its effects: shows it, and applies it only when this very plan was consented to."""

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, TextIO

from runner.errors import Refused
from runner.machines.ledger import read_ledger
from runner.plan.next_command import in_context, spell_next
from runner.plan.plan import Effect, Plan, plan_document, to_json
from runner.plan.settings import Settings
from runner.verbs import verb_named
from runner.view.script import plan_script
from runner.view.text import Paint, consent_line, plan_text, plan_title, result_text
from runner.world.live import Transport, answer


def show_or_apply(
    plan: Plan, settings: Settings, transport: Transport, paint: Paint, again: Callable[[], Plan]
) -> int:
    """The exit code of showing the plan, of refusing it, or of carrying it out.

    `again` makes the plan anew, for when a person took time to answer.
    """
    reads = plan.effect is Effect.READ and settings.output != "script"
    if not reads or settings.output == "json":
        _show(plan, settings, paint)
    if reads:
        return _carry_out(plan, settings, transport, paint)
    nothing_to_do = not plan.steps and not plan.refused
    # what is done once says that it was; the other verbs may be confirmed twice
    agreed = settings.confirm in ("true", "ask", plan.digest) or plan.effect is not Effect.PAY
    if settings.confirm == "false" or (nothing_to_do and agreed):
        return 0
    _check_consent(plan, settings)
    if settings.confirm == "ask" or (settings.confirm == "true" and plan.effect in _COSTLY):
        _ask_person(plan, settings)
        now = again()
        _check_same(plan, now)
        plan = now
    if plan.effect is Effect.DESTROY:
        _check_unchanged(plan, settings, transport)
    return _carry_out(plan, settings, transport, paint)


_COSTLY = (Effect.PAY, Effect.DESTROY)


def _carry_out(plan: Plan, settings: Settings, transport: Transport, paint: Paint) -> int:
    """The exit code of applying the plan; what is only read needs no consent."""
    from runner.apply import apply  # here, since a plan that is only shown does not need it
    from runner.world.screen import Screen

    sys.stdout.flush()
    is_data = settings.output != "text"  # then stdout holds documents, and all the talk is on stderr
    screen = Screen((sys.stderr if is_data else sys.stdout).buffer)
    talk = Paint(bool(paint.colour and sys.stderr.isatty()))

    def tell(line: str) -> None:
        _say(talk(f"[runner] {in_context(settings, line)}", "dim"), sys.stderr)

    result = apply(plan, transport, screen, tell)
    if settings.output == "json":
        _say(to_json(result.document()), sys.stdout)
    hidden = () if _is_one_place(screen.out, sys.stderr) else result.last_lines
    _say(result_text(result, settings, hidden, talk), sys.stderr)
    if plan.effect is Effect.DESTROY:
        _tell_total(plan, settings)
    verb = verb_named(plan.action)
    for line in verb.summarize(settings, result.exit_code) if verb else ():
        _say(f"  {line}", sys.stderr)
    return result.exit_code


def _is_one_place(output: IO[Any], talk: IO[Any]) -> bool:
    """Whether whoever reads the talk has read the job's output just above it."""
    try:
        return os.path.sameopenfile(output.fileno(), talk.fileno())
    except (OSError, ValueError):
        return False


def _say(text: str, stream: TextIO) -> None:
    """A line for whoever still listens: a closed terminal or pipe does not stop what was consented to."""
    with suppress(OSError):
        print(text, file=stream, flush=True)


def _tell_total(plan: Plan, settings: Settings) -> None:
    """What the machine cost, once it is gone."""
    machine = read_ledger(settings.paths.state).by_id(dict(plan.basis).get("machine", ""))
    if machine and machine.until and machine.is_ours:
        hours = (machine.until - machine.since) / 3600
        cost, bound = machine.usd_until(machine.until), machine.bound
        _say(f"  total     {bound}${cost:.2f} for {bound}{hours:.2f} h", sys.stderr)


def _ask_person(plan: Plan, settings: Settings) -> None:
    """Refused (77) unless a person at a terminal says yes; to an end, that is the name of the machine."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(
            f"{plan.action} with confirm={settings.confirm} asks a person, and there is no terminal",
            "Nothing has run. To run exactly the plan above:",
            consent_line(plan, settings),
        )
    if plan.effect is Effect.DESTROY and settings.confirm == "true":
        name = plan.target.name
        if _answer(f"This cannot be undone. Type the machine's name ({name}): ") != name:
            raise Refused(f"That is not {name}", "Nothing has run.")
        return
    price = (
        f"${plan.target.usd_per_hour:.2f} an hour, until it is terminated. "
        if plan.effect is Effect.PAY
        else ""
    )
    if _answer(f"{price}Run exactly this? [y/N] ").lower() not in ("y", "yes"):
        raise Refused("That is no yes", "Nothing has run.")


def _answer(question: str) -> str:
    """What a person types."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _check_unchanged(plan: Plan, settings: Settings, transport: Transport) -> None:
    """Refused (77) when something changed while the plan was made: to compare checksums may take minutes."""
    verb = verb_named(plan.action)
    why = answer(transport, verb.recheck(settings, plan)) if verb else None
    if why:
        raise Refused(
            f"{plan.action} is refused: {why}",
            "Nothing was ended: the machine runs on, and is billed. To see the plan as it is now:",
            spell_next(settings, plan.action, *_discarding(settings)),
        )


def _discarding(settings: Settings) -> tuple[str, ...]:
    """What was typed of `discard`."""
    return tuple(word for word in settings.typed if word.startswith("discard="))


def _check_same(plan: Plan, now: Plan) -> None:
    """Refused (77) when the world moved while a person thought."""
    if now.refused or now.digest != plan.digest:
        why = now.reason or f"the plan is now {now.digest}"
        raise Refused(f"{plan.action}: since it was shown, something changed: {why}", "Nothing has run.")


def _show(plan: Plan, settings: Settings, paint: Paint) -> None:
    """The plan in the form that was asked for; its title alone when its digest says that it was seen."""
    if settings.output == "json":
        may_run = plan.steps and not plan.refused and plan.effect is not Effect.READ
        line = shlex.split(consent_line(plan, settings)) if may_run else None
        print(to_json(plan_document(plan) | {"confirm": line}), flush=True)
    elif settings.output == "script":
        print(plan_script(plan), end="", flush=True)
    elif settings.confirm == plan.digest:
        print(plan_title(plan, paint), flush=True)
    else:
        print(plan_text(plan, settings, paint), flush=True)


def _check_consent(plan: Plan, settings: Settings) -> None:
    """Refused (77) unless the plan may run and the consent names it."""
    if plan.refused:
        raise Refused(f"{plan.action} is refused: {plan.reason}", "Nothing has run.")
    given = settings.confirm
    if given in ("true", "ask", plan.digest):
        return
    from runner.world.files import run_that_spent

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
        "Nothing has run. Look at the plan as it is now: its digest is another consent.",
    )

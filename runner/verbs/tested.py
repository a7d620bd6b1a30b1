"""Whether a job's dependencies were tested before the machine they are for is paid for."""

import shlex
from dataclasses import replace

from runner.facts.fact import Asking
from runner.facts.preflights import passed, subject_of
from runner.plan.plan import Plan
from runner.plan.settings import Phase, Settings

NOT_OF_PREFLIGHT = ("action", "require_preflight")


def tested(asking: Asking[Plan], settings: Settings) -> Asking[Plan]:
    """The job's plan with a note when no preflight passed; refused when one is required."""
    plan = yield from asking
    missing = missing_preflight(settings, settings.phase) if settings.phase else None
    if missing is None:
        return plan
    if settings.require_preflight:
        return replace(plan, refused=True, reason=missing)
    return replace(plan, notes=(*plan.notes, missing))


def missing_preflight(settings: Settings, phase: Phase) -> str | None:
    """What to type first, when nothing says that these dependencies work on a machine that costs money."""
    if settings.instance.is_local and not settings.require_preflight:
        return None
    subject = subject_of(settings, phase)
    if (subject.is_empty and phase.source is None) or passed(settings, phase, subject):
        return None
    words = [word for word in settings.typed if word.split("=")[0] not in NOT_OF_PREFLIGHT]
    command = f"{settings.program} {shlex.join([*words, 'action=preflight'])}"
    return f"no preflight of these dependencies has passed; first: {command}"

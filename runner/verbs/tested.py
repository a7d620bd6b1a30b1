"""Whether a job's dependencies were tested before the machine they are for is paid for."""

import re
from dataclasses import replace

from runner.plan.plan import Plan
from runner.plan.settings import Phase, Settings
from runner.verbs.own_line import MACHINE, line_of

# What a preflight depends on; the values of a job or a sweep are not among it.
OF_PREFLIGHT = re.compile(
    rf"({MACHINE.pattern}|phase|\+?phase\.(deps|source|preflight)[\w.-]*)=.*",
    re.DOTALL,
)


def tested(plan: Plan, settings: Settings, phase: Phase) -> Plan:
    """The job's plan with a note when no preflight passed; refused when one is required."""
    if settings.instance.is_local and not settings.require_preflight:
        return plan
    missing = missing_preflight(settings, phase)
    if missing is None:
        return plan
    if settings.require_preflight:
        return replace(plan, refused=True, reason=missing)
    return replace(plan, notes=(*plan.notes, missing))


def missing_preflight(settings: Settings, phase: Phase) -> str | None:
    """What to type first, when nothing says that these dependencies work on a machine that costs money."""
    from runner.facts.preflights import passed, subject_of

    subject = subject_of(settings, phase)
    if (subject.is_empty and phase.source is None) or passed(settings, phase, subject):
        return None
    words = [w for w in settings.typed if OF_PREFLIGHT.fullmatch(w)]
    command = line_of(settings, *words, "action=preflight")
    return f"no preflight of these dependencies has passed; first: {command}"

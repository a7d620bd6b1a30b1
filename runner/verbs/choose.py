"""Which rules answer an action: those of a verb, or of a job that the phase declares."""

from collections.abc import Sequence
from typing import Any

from runner.errors import UsageError, choices
from runner.facts.fact import Asking
from runner.plan.fold import SweptJob
from runner.plan.settings import Settings
from runner.verbs.verb import VERBS, verb_named


def rules_for(settings: Settings) -> Asking[Any]:
    """The generator that asks and then plans. UsageError with the near matches for an unknown action."""
    if verb := verb_named(settings.action):
        if settings.phase and settings.phase.job(verb.name):
            raise UsageError(
                f"phase.jobs.{verb.name} of {settings.phase.name}: {verb.name} is a verb already",
                "Rename the job in the phase's YAML.",
            )
        return verb.ask(settings)
    if settings.phase and settings.phase.job(settings.action):
        if settings.resume is not None:
            from runner.verbs.sweep import resumed

            return resumed(settings)
        from runner.verbs.jobs import job

        return job(settings)
    raise unknown_action(settings)


def sweep_rules(settings: Settings, members: Sequence[SweptJob]) -> Asking[Any]:
    """The same for many configurations at once: a sweep is of a job."""
    if verb_named(settings.action):
        raise UsageError(
            f"-m sweeps a job, and {settings.action} is a verb",
            "Jobs are what the phase declares, for instance action=train or action=generate",
        )
    if settings.phase is None or settings.phase.job(settings.action) is None:
        raise unknown_action(settings)
    from runner.verbs.sweep import sweep

    return sweep(settings, members)


def unknown_action(settings: Settings) -> UsageError:
    """What could have been meant."""
    verbs = [verb.name for verb in VERBS]
    if settings.phase is None:
        hints = choices(settings.action, verbs, "Verbs")
        return UsageError(
            f"action={settings.action}: there is no such verb, and jobs need a phase: phase=NAME", *hints
        )
    jobs = [job.name for job in settings.phase.jobs]
    hints = choices(settings.action, [*jobs, *verbs], "Verbs and jobs")
    shown = f"Jobs of {settings.phase.name}: {', '.join(jobs) or 'it declares none'}"
    meant = hints[:-1]
    return UsageError(
        f"action={settings.action}: neither a verb nor a job of {settings.phase.name}",
        *meant,
        shown,
        f"Verbs: {', '.join(verbs)}",
    )

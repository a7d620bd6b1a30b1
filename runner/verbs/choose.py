"""Which rules answer an action: those of a verb, or of a job that the phase declares."""

from collections.abc import Sequence
from typing import Any

from runner.errors import UsageError, choices
from runner.facts.fact import Asking
from runner.plan.fold import SweptJob
from runner.plan.settings import Settings
from runner.verbs.own_line import OF_ONE_VERB, key_of, overview_line
from runner.verbs.verb import OF_JOB, VERBS, verb_named


def rules_for(settings: Settings) -> Asking[Any]:
    """The generator that asks and then plans. UsageError with the near matches for an unknown action."""
    if verb := verb_named(settings.action):
        check_keys(settings, verb.keys)
        if settings.phase and settings.phase.job(verb.name):
            raise UsageError(
                f"phase.jobs.{verb.name} of {settings.phase.name}: {verb.name} is a verb already",
                "Rename the job in the phase's YAML.",
            )
        return verb.ask(settings)
    if settings.phase and settings.phase.job(settings.action):
        check_keys(settings, OF_JOB)
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
    check_keys(settings, OF_JOB)
    from runner.verbs.sweep import sweep

    return sweep(settings, members)


# What works on the machine of the settings, which on `local` no name can change.
ON_MACHINE = ("sync", "setup", "run", "backup")


def check_keys(settings: Settings, taken: tuple[str, ...]) -> None:
    """UsageError for a key of single verbs that was typed and would be passed over by this one."""
    given = {key_of(word): word for word in settings.typed if not word.endswith("=null")}
    for key in (key for key in OF_ONE_VERB if key != "action"):
        if key in given and key not in taken:
            raise UsageError(
                f"{given[key]}: action={settings.action} takes no {key}=",
                f"It belongs to: {', '.join(takers(key))}. Leave it out, or give another action=.",
            )
    is_on_machine = verb_named(settings.action) is None or settings.action in ON_MACHINE
    if "machine" in given and settings.instance.is_local and is_on_machine:
        raise UsageError(
            f"{given['machine']}: instance=local is this computer, and machine= names a rented one",
            "To work on that machine say of what kind it is: instance=gpu_1x_a10",
            "To work here leave machine= out.",
        )


def takers(key: str) -> list[str]:
    """The actions that take a key of single verbs."""
    jobs = ["a job of the phase"] if key in OF_JOB else []
    return [*(f"action={verb.name}" for verb in VERBS if key in verb.keys), *jobs]


def unknown_action(settings: Settings) -> UsageError:
    """What could have been meant."""
    verbs = [verb.name for verb in VERBS]
    if settings.phase is None:
        hints = choices(settings.action, verbs, "Verbs")
        return UsageError(
            f"action={settings.action}: there is no such verb, and jobs need a phase: phase=NAME",
            *hints,
            f"The phases and their jobs: {overview_line(settings)}",
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

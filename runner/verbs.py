"""The table of verbs, and which rules answer an action: those of a verb, or of a job of the phase."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from runner.errors import UsageError, choices
from runner.plan.fold import SweptJob
from runner.plan.next_command import OF_ONE_VERB, key_of, line_of, overview_line
from runner.plan.plan import Effect, Plan
from runner.plan.settings import Settings
from runner.world.world import Asking


@dataclass(frozen=True)
class Verb:
    """`rules` is `module:function` below runner, imported only when the verb is used.

    So is `summarized_by`: a function of the settings and the exit code that reads what the verb's plan left
    behind and says, a line each, what that means. `keys` are those of single verbs that it takes.
    `rechecked_by` asks, right before the plan's first step, why it must not be taken after all.
    """

    name: str
    effect: Effect
    summary: str
    rules: str
    summarized_by: str | None = None
    keys: tuple[str, ...] = ()
    rechecked_by: str | None = None

    def ask(self, settings: Settings) -> Asking[Any]:
        """The verb's questions for these settings, and then its Plan or Report."""
        rules: Callable[[Settings], Asking[Any]] = _function(self.rules)
        return rules(settings)

    def recheck(self, settings: Settings, plan: Plan) -> Asking[str | None]:
        """What has changed since the plan was made and speaks against it; None for most."""
        if self.rechecked_by is None:
            yield from ()
            return None
        rules: Callable[[Settings, Plan], Asking[str | None]] = _function(self.rechecked_by)
        return (yield from rules(settings, plan))

    def summarize(self, settings: Settings, exit_code: int) -> tuple[str, ...]:
        """What came of the verb's plan, in words; nothing for most."""
        if self.summarized_by is None:
            return ()
        words: Callable[[Settings, int], tuple[str, ...]] = _function(self.summarized_by)
        return words(settings, exit_code)


def _function(place: str) -> Any:
    """What `module:function` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"runner.{module}"), name)


# In the order of a machine's life, which is the order of --help.
_READ, _CHANGE, _PAY, _DESTROY = Effect.READ, Effect.CHANGE, Effect.PAY, Effect.DESTROY
_OF_RUN = ("run", "lines")
_OF_LAUNCH = ("wait_for_capacity", "budget_usd")
OF_JOB = ("run", "resume", "require_preflight")
VERBS = (
    Verb(
        "discover", _READ, "the phases, their states, and what to type next", "research_log.discover:discover"
    ),
    Verb(
        *("preflight", _CHANGE, "the phase's packages, tried on this machine's CPU"),
        *("environment.preflight:preflight", "environment.preflight:summary"),
    ),
    Verb("available", _READ, "instance types, their price, where they are free", "machines.launch:available"),
    Verb("launch", _PAY, "a new machine under a name of ours", "machines.launch:launch", keys=_OF_LAUNCH),
    Verb("wait", _READ, "blocks until ssh answers and CUDA works", "machines.status:wait"),
    Verb("setup-ssh", _CHANGE, "`ssh lambda` works in every terminal", "machines.ssh_config:setup_ssh"),
    Verb("up", _PAY, "launch, wait, setup-ssh, in one blocking call", "machines.launch:up", keys=_OF_LAUNCH),
    Verb("sync", _CHANGE, "the phase's code on the machine", "jobs.transfer:sync"),
    Verb(
        "setup",
        _CHANGE,
        "uv and the shared environment, with the phase's packages",
        "environment.setup:setup",
    ),
    Verb(
        "run", _CHANGE, "one command='…' on the machine, logged like a job", "jobs.job:run", keys=("command",)
    ),
    Verb("status", _READ, "machines, dollars so far and per hour, runs, idle GPUs", "machines.status:status"),
    Verb(
        "logs", _READ, "follow a run's log until it ends; Ctrl-C only detaches", "jobs.job:logs", keys=_OF_RUN
    ),
    Verb("stop", _CHANGE, "stop a run, not the machine", "jobs.job:stop", keys=_OF_RUN),
    Verb(
        "doctor",
        _READ,
        "what went wrong, the evidence, and what mends it",
        "doctor.doctor:doctor",
        keys=_OF_RUN,
    ),
    Verb("report", _READ, "a page with pictures of a sweep or a run", "report.report:report", keys=_OF_RUN),
    Verb("backup", _CHANGE, "the phase's artifacts here, verified by checksum", "jobs.transfer:backup"),
    Verb(
        "terminate",
        _DESTROY,
        "the machine gone, after a verified backup",
        "machines.terminate:terminate",
        keys=("discard",),
        rechecked_by="machines.terminate:recheck",
    ),
)


def verb_named(name: str) -> Verb | None:
    """The verb of this name."""
    return next((verb for verb in VERBS if verb.name == name), None)


def rule_for(settings: Settings) -> Asking[Any]:
    """The generator that asks and then plans. UsageError with the near matches for an unknown action."""
    if verb := verb_named(settings.action):
        _check_keys(settings, verb.keys)
        if settings.phase and settings.phase.job(verb.name):
            raise UsageError(
                f"phase.jobs.{verb.name} of {settings.phase.name}: {verb.name} is a verb already",
                "Rename the job in the phase's YAML.",
            )
        return verb.ask(settings)
    if settings.phase and settings.phase.job(settings.action):
        _check_keys(settings, OF_JOB)
        if settings.resume is not None:
            from runner.jobs.sweep import resumed

            return resumed(settings)
        from runner.jobs.job import job

        return job(settings)
    raise _unknown_action(settings)


def sweep_rules(settings: Settings, members: Sequence[SweptJob]) -> Asking[Any]:
    """The same for many configurations at once: a sweep is of a job."""
    if verb_named(settings.action):
        raise UsageError(
            f"-m sweeps a job, and {settings.action} is a verb",
            "Jobs are what the phase declares, for instance action=train or action=generate",
        )
    if settings.phase is None or settings.phase.job(settings.action) is None:
        raise _unknown_action(settings)
    _check_keys(settings, OF_JOB)
    from runner.jobs.sweep import sweep

    return sweep(settings, members)


# Verbs that act on the configured instance: with instance=local, machine= would be ignored, so it is refused.
_ON_MACHINE = ("sync", "setup", "run", "backup")


def _check_keys(settings: Settings, taken: tuple[str, ...]) -> None:
    """UsageError for a key of single verbs that was typed and would be passed over by this one."""
    given = {key_of(word): word for word in settings.typed if not word.endswith("=null")}
    for key in (key for key in OF_ONE_VERB if key != "action"):
        if key in given and key not in taken:
            raise UsageError(
                f"{given[key]}: action={settings.action} takes no {key}=",
                f"It belongs to: {', '.join(_verbs_taking(key))}. Leave it out, or give another action=.",
            )
    is_on_machine = verb_named(settings.action) is None or settings.action in _ON_MACHINE
    if "machine" in given and settings.instance.is_local and is_on_machine:
        raise UsageError(
            f"{given['machine']}: instance=local is this computer, and machine= names a rented one",
            "To work on that machine say of what kind it is: instance=gpu_1x_a10",
            "To work here leave machine= out.",
        )


def _verbs_taking(key: str) -> list[str]:
    """The actions that take a key of single verbs."""
    jobs = ["a job of the phase"] if key in OF_JOB else []
    return [*(f"action={verb.name}" for verb in VERBS if key in verb.keys), *jobs]


def _unknown_action(settings: Settings) -> UsageError:
    """What could have been meant."""
    if settings.action == "help":
        return UsageError("action=help: there is no such verb", f"Type: {line_of(settings, '--help')}")
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

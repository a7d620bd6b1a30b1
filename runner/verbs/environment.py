"""setup: uv and the shared virtual environment with the phase's packages."""

from runner.errors import UsageError
from runner.facts.fact import Asking
from runner.plan.plan import HERE, Effect, Plan, Step
from runner.plan.settings import Phase, Settings
from runner.verbs.installing import packages
from runner.verbs.own_line import overview_line
from runner.verbs.target import target_of


def setup(settings: Settings) -> Asking[Plan]:
    """The environment as the phase's deps ask for it; asks nothing."""
    yield from ()
    phase = needed_phase(settings)
    return Plan(
        action="setup",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=(setup_step(settings, phase),),
        details=(("packages", ", ".join(packages(settings, phase)) or "none"),),
    )


def needed_phase(settings: Settings) -> Phase:
    """The phase of the settings, or how to name one."""
    if settings.phase is None:
        raise UsageError(
            f"action={settings.action} needs a phase: phase=NAME",
            f"The phases: {overview_line(settings)}",
        )
    return settings.phase


def setup_step(settings: Settings, phase: Phase) -> Step:
    """One idempotent command; uv itself finds that nothing is to do, in milliseconds."""
    from runner.facts.preflights import passed
    from runner.verbs.local_environment import local_setup
    from runner.verbs.remote_environment import remote_setup

    tested = passed(settings, phase)
    lock = tested.lock if tested else None
    local = settings.instance.is_local
    command = local_setup(settings, phase, lock) if local else remote_setup(settings, phase, lock)
    num = len(lock.pins) if lock else len(phase.deps)
    reason = setup_reason(num, tested.at if tested else None)
    return Step("setup", command, on=HERE if local else settings.alias, reason=reason)


def setup_reason(num: int, tested_at: str | None = None) -> str:
    """`the shared environment, 205 packages as preflight locked them on 2026-11-24 (…)`."""
    wanted = f", {num} package{'s' * (num != 1)}" if num else ""
    locked = f" as preflight locked them on {tested_at[:10]}" if tested_at else ""
    return f"the shared environment{wanted}{locked} (nothing is done where all is there)"

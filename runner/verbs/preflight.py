"""preflight: the phase's dependencies resolved for its machine, installed for a CPU here, and imported."""

from runner.errors import UsageError
from runner.facts.fact import Asking
from runner.facts.preflights import Passed, Subject, pass_key, passed, record_path, subject_of
from runner.plan.command import quote
from runner.plan.plan import Effect, Plan
from runner.plan.settings import Phase, Settings
from runner.verbs.caution import warnings
from runner.verbs.environment import needed_phase
from runner.verbs.layers import Layers
from runner.verbs.target import platform_text, target_of


def preflight(settings: Settings) -> Asking[Plan]:
    """The plan of the layers, or why nothing is to do; asks nothing."""
    yield from ()
    phase = needed_phase(settings)
    folder = settings.paths.research_log / phase.name
    if phase.source is None and not folder.is_dir():
        raise UsageError(
            f"{settings.paths.shown(folder)}: there is no such folder, though phase.name says so",
            "Make it, or say where the phases are: paths.research_log=DIR",
        )
    subject = subject_of(settings, phase)
    holds = passed(settings, phase, subject)
    reason = reason_for_nothing(settings, phase, subject, holds)
    return Plan(
        action="preflight",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=() if reason else Layers(settings, phase, subject).steps(),
        basis=(("content", pass_key(settings, subject)),),
        reason=reason,
        details=(("for", platform_text(settings)), ("packages", packages_text(subject))),
        notes=warnings(settings, phase, subject, holds.lock) if holds else (),
    )


def reason_for_nothing(
    settings: Settings, phase: Phase, subject: Subject, holds: Passed | None
) -> str | None:
    """What makes a test needless, decided by content."""
    if subject.is_empty and phase.source is None:
        return "its scripts need nothing but the standard library"
    if holds is None:
        return None
    record = settings.paths.shown(record_path(settings, holds.key))
    return (
        f"these deps, imports and image passed on {holds.at[:10]}; its {len(holds.lock.pins)} packages are "
        f"locked in {settings.paths.shown(holds.lock.path)}. To test again: rm {quote(record)}"
    )


def packages_text(subject: Subject) -> str:
    """The requirements, as they are written."""
    return ", ".join(r.text for r in (*subject.requirements, *subject.listed)) or "none named"

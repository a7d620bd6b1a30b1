"""What is said when a preflight is over: why it failed, or what a pass should still make one think about."""

from runner.facts.declared import origin
from runner.facts.packages import Requirement
from runner.facts.preflights import (
    DEPS,
    Lock,
    Subject,
    lock_key,
    lock_path,
    pass_key,
    read_lock,
    record_path,
    subject_of,
)
from runner.facts.requirements import text_of
from runner.plan.settings import Phase, Settings
from runner.verbs.caution import warnings
from runner.verbs.explain import Asked, explain
from runner.verbs.target import platform_text


def words(settings: Settings, exit_code: int) -> tuple[str, ...]:
    """A line each, for the person who reads the end of the plan."""
    phase = settings.phase
    if phase is None or exit_code not in (0, 65):
        return ()
    subject = subject_of(settings, phase)
    lock = read_lock(lock_path(settings, lock_key(settings, subject)))
    if exit_code == 0:
        return tuple(f"warning   {line}" for line in warnings(settings, phase, subject, lock)) if lock else ()
    sentence = why(settings, phase, subject, lock)
    return (f"why       {sentence}",) if sentence else ()


def why(settings: Settings, phase: Phase, subject: Subject, lock: Lock | None) -> str | None:
    """The sentence on the log that the failed preflight left."""
    asked = (
        *(in_yaml(requirement, settings, phase) for requirement in subject.requirements),
        *subject.listed,
    )
    log = text_of(record_path(settings, pass_key(settings, subject), "log"))
    return explain(log, Asked(asked, platform_text(settings), lock.pins if lock else ()))


def in_yaml(requirement: Requirement, settings: Settings, phase: Phase) -> Requirement:
    """With the line of YAML that says so."""
    if requirement.file != DEPS:
        return requirement
    return origin(requirement.text, phase.choice, settings.paths.conf, settings.paths.cwd)

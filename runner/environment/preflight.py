"""The verb `preflight`: its plan, the warnings it gives, and what came of it in words."""

import re

from runner.environment.explain import Asked, explain
from runner.environment.passes import (
    DEPS,
    Lock,
    Passed,
    PreflightInput,
    find_pass,
    lock_key,
    lock_path,
    pass_key,
    pins_in,
    preflight_input,
    read_lock,
    record_path,
)
from runner.environment.preflight_steps import PreflightSteps, platform_text
from runner.environment.requirements import Requirement, declared_phase, origin, text_of
from runner.environment.setup import needed_phase
from runner.errors import UsageError
from runner.plan.command import quote
from runner.plan.plan import Effect, Plan, target_of
from runner.plan.settings import Phase, Settings
from runner.research_log.phases import phase_files
from runner.world.world import Asking

_NAME = re.compile(r"\s*[\w.-]+\s*(\[[^\]]*\])?\s*")


def _warnings(settings: Settings, phase: Phase, subject: PreflightInput, lock: Lock) -> tuple[str, ...]:
    """What may bite although all is installed and imported."""
    newest = dict(pins_in(text_of(record_path(settings, pass_key(settings, subject), "newest"))))
    unread = (
        f"{name} was not read: its syntax is newer than this machine's Python; what it imports was not tried"
        for name in subject.newer
    )
    return (*unread, *far_below(lock, newest), *clashes(lock, _others(settings, phase)))


def far_below(lock: Lock, newest: dict[str, str]) -> tuple[str, ...]:
    """Packages without a lower bound that were resolved to something very old."""
    pins = dict(lock.pins)
    return tuple(
        f"{name} {pins[name]} is far below the newest, {version}: give it a lower bound, {name}>={version}, "
        "and the conflict behind it shows"
        for name, version in sorted(newest.items())
        if name in pins and is_far_below(pins[name], version)
    )


def is_far_below(locked: str, newest: str) -> bool:
    """Another major version; before 1.0, a minor version not half as high."""
    from packaging.version import InvalidVersion, Version

    try:
        low, high = Version(locked), Version(newest)
    except InvalidVersion:
        return False
    if low.major != high.major:
        return low.major < high.major
    return low.major == 0 and 2 * low.minor < high.minor


def _others(settings: Settings, phase: Phase) -> tuple[Requirement, ...]:
    """What the other phases of this research log, which share the environment, ask for by name."""
    found: list[Requirement] = []
    for choice, file in phase_files(settings.paths.conf):
        declared = declared_phase(file, settings.paths.shown(file)) if choice != phase.choice else None
        if (
            declared
            and declared.name != phase.name
            and (settings.paths.research_log / declared.name).is_dir()
        ):
            found += declared.deps
    return tuple(found)


def clashes(lock: Lock, asked: tuple[Requirement, ...]) -> tuple[str, ...]:
    """Requirements of other phases that this lock breaks in the environment they share."""
    pins = dict(lock.pins)
    found = []
    for requirement in asked:
        version = pins.get(requirement.name)
        if version and not _allows(requirement.text, version):
            found.append(
                f"the environment is shared, and {requirement.where} asks for {requirement.text}: "
                f"{requirement.name} {version} of this lock breaks that phase until its own setup runs again"
            )
    return tuple(found)


def _allows(requirement: str, version: str) -> bool:
    """Whether the version fits; what cannot be read (an address, a mistake) is not held against it."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    bounds = _NAME.sub("", requirement.partition(";")[0], count=1)
    try:
        return SpecifierSet(bounds).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True


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
    subject = preflight_input(settings, phase)
    holds = find_pass(settings, phase, subject)
    reason = _reason_for_nothing(settings, phase, subject, holds)
    return Plan(
        action="preflight",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=() if reason else PreflightSteps(settings, phase, subject).steps(),
        basis=(("content", pass_key(settings, subject)),),
        reason=reason,
        details=(("for", platform_text(settings)), ("packages", _packages_text(subject))),
        notes=_warnings(settings, phase, subject, holds.lock) if holds else (),
    )


def _reason_for_nothing(
    settings: Settings, phase: Phase, subject: PreflightInput, holds: Passed | None
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


def _packages_text(subject: PreflightInput) -> str:
    """The requirements, as they are written."""
    return ", ".join(r.text for r in (*subject.requirements, *subject.listed)) or "none named"


def summary(settings: Settings, exit_code: int) -> tuple[str, ...]:
    """A line each, for the person who reads the end of the plan."""
    phase = settings.phase
    if phase is None or exit_code not in (0, 65):
        return ()
    subject = preflight_input(settings, phase)
    lock = read_lock(lock_path(settings, lock_key(settings, subject)))
    if exit_code == 0:
        return (
            tuple(f"warning   {line}" for line in _warnings(settings, phase, subject, lock)) if lock else ()
        )
    sentence = _why(settings, phase, subject, lock)
    return (f"why       {sentence}",) if sentence else ()


def _why(settings: Settings, phase: Phase, subject: PreflightInput, lock: Lock | None) -> str | None:
    """The sentence on the log that the failed preflight left."""
    asked = (
        *(_in_yaml(requirement, settings, phase) for requirement in subject.requirements),
        *subject.listed,
    )
    log = text_of(record_path(settings, pass_key(settings, subject), "log"))
    return explain(log, Asked(asked, platform_text(settings), lock.pins if lock else ()))


def _in_yaml(requirement: Requirement, settings: Settings, phase: Phase) -> Requirement:
    """With the line of YAML that says so."""
    if requirement.file != DEPS:
        return requirement
    return origin(requirement.text, phase.choice, settings.paths.conf, settings.paths.cwd)

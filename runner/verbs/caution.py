"""What may bite although a preflight passed: versions gone far back, phases that share the environment."""

import re

from runner.facts.declared import declared_phase, phase_files
from runner.facts.packages import Requirement
from runner.facts.preflights import Lock, Subject, pass_key, pins_in, record_path
from runner.facts.requirements import text_of
from runner.plan.settings import Phase, Settings

NAME = re.compile(r"\s*[\w.-]+\s*(\[[^\]]*\])?\s*")


def warnings(settings: Settings, phase: Phase, subject: Subject, lock: Lock) -> tuple[str, ...]:
    """What may bite although all is installed and imported."""
    newest = dict(pins_in(text_of(record_path(settings, pass_key(settings, subject), "newest"))))
    return (*far_below(lock, newest), *clashes(lock, others(settings, phase)))


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


def others(settings: Settings, phase: Phase) -> tuple[Requirement, ...]:
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
        if version and not allows(requirement.text, version):
            found.append(
                f"the environment is shared, and {requirement.where} asks for {requirement.text}: "
                f"{requirement.name} {version} of this lock breaks that phase until its own setup runs again"
            )
    return tuple(found)


def allows(requirement: str, version: str) -> bool:
    """Whether the version fits; what cannot be read (an address, a mistake) is not held against it."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    bounds = NAME.sub("", requirement.partition(";")[0], count=1)
    try:
        return SpecifierSet(bounds).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True

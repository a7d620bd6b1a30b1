"""The verb `setup`: uv and the shared environment, here or on a machine, with what the phase installs."""

import sys
from dataclasses import replace
from pathlib import Path

from runner.environment.passes import Lock
from runner.environment.requirements import distribution
from runner.errors import UsageError
from runner.executors.ssh import remote_of
from runner.plan.command import Word, home_or_path, sh
from runner.plan.next_command import overview_line
from runner.plan.plan import Effect, Plan, Step, target_of
from runner.plan.settings import Phase, Settings
from runner.plan.tools import here_of
from runner.world.world import Asking

_PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


def _may_be_package(settings: Settings, phase: Phase) -> bool:
    """Whether to look for either: what is cloned may have them, a folder here shows whether it does."""
    folder = settings.paths.research_log / phase.name
    names = ("requirements.txt", *_PROJECT_FILES)
    return phase.source is not None or any((folder / name).is_file() for name in names)


def packages(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The phase's deps, those that the instance maps replaced by what runs there, or left out."""
    mapped = dict(settings.instance.packages)
    named = (mapped.get(distribution(dep), dep) for dep in phase.deps)
    return tuple(dep for dep in named if dep is not None)


def overrides_for(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The override lines of the instance for the packages that this phase asks for."""
    asked = {distribution(dep) for dep in phase.deps}
    return tuple(line for name, lines in settings.instance.overrides if name in asked for line in lines)


def _index_options(settings: Settings) -> tuple[str, ...]:
    """Where builds for this machine come from: a folder of wheels, else the index of the torch backend."""
    instance = settings.instance
    if instance.find_links:
        return ("--find-links", instance.find_links)
    return ("--torch-backend", instance.torch_backend) if instance.torch_backend else ()


def _local_setup(settings: Settings, phase: Phase, lock: Lock | None) -> Step:
    """The shim makes the environment here if it is missing, then installs in it by the runner's own uv."""
    from uv import find_uv_bin

    here = here_of(settings)
    uv, python = here.named(Path(find_uv_bin())), settings.instance.python or here.named(Path(sys.executable))
    words = _shim_words(settings, phase, uv, here.named(settings.paths.venv), python)
    named = (f"--lock={here.named(lock.path)}@{lock.sha256}",) if lock else ()
    install = here.ask_shim("setup", *words, *named, "--", *_uv_words(uv, settings, phase, lock))
    return Step("setup", install.within(here.root), tools=(here.shim,))


def _remote_setup(settings: Settings, phase: Phase, lock: Lock | None) -> Step:
    """The same on the machine, where uv is installed by the seed's command if it is missing.

    What is installed is the `lock` that was tested, which travels with the shim, or the deps by name.
    """
    remote = remote_of(settings)
    venv = home_or_path(settings.remote.venv)
    words = _shim_words(settings, phase, "uv", venv, settings.instance.python)
    named = (f"--lock={lock.path.name}@{lock.sha256}",) if lock else ()
    install = remote.run_shim(
        *("setup", *words, f"--uv-install={settings.remote.uv_install}", *named),
        then=sh(*_uv_words("uv", settings, phase, lock)),
        files=[remote.here.named(lock.path)] if lock else (),
    )
    return Step("setup", install, on=remote.alias, tools=remote.tools, repeats=True)


def _shim_words(
    settings: Settings, phase: Phase, uv: str, venv: Word, python: str | None
) -> tuple[Word, ...]:
    """What the shim has to know: the environment, the phase's own package and its data."""
    folder = f"{settings.paths.research_log.name}/{phase.name}"
    has_own = _may_be_package(settings, phase) or phase.data
    return (
        venv,
        *((f"--uv={uv}",) if uv != "uv" else ()),
        *((f"--python={python}",) if python else ()),
        *((f"--own={folder}",) if has_own else ()),
        *(("--cloned",) if phase.source else ()),
        *(f"--override={line}" for line in overrides_for(settings, phase)),
        *((f"--data-done={phase.data.done}", f"--data-command={phase.data.command}") if phase.data else ()),
    )


def _uv_words(uv: str, settings: Settings, phase: Phase, lock: Lock | None) -> tuple[str, ...]:
    """`uv pip install …` of the lock, or of the deps by name; none where nothing is asked for."""
    install = (uv, "pip", "install", *_index_options(settings))
    if lock:
        return (*install, "--no-deps")
    asked = packages(settings, phase)
    return (*install, *asked) if asked or _may_be_package(settings, phase) else ()


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
    from runner.environment.passes import find_pass

    tested = find_pass(settings, phase)
    lock = tested.lock if tested else None
    local = settings.instance.is_local
    step = _local_setup(settings, phase, lock) if local else _remote_setup(settings, phase, lock)
    num = len(lock.pins) if lock else len(phase.deps)
    return replace(step, reason=_setup_reason(num, tested.at if tested else None))


def _setup_reason(num: int, tested_at: str | None = None) -> str:
    """`the shared environment, 205 packages as preflight locked them on 2026-11-24 (…)`."""
    wanted = f", {num} package{'s' * (num != 1)}" if num else ""
    locked = f" as preflight locked them on {tested_at[:10]}" if tested_at else ""
    return f"the shared environment{wanted}{locked} (nothing is done where all is there)"

"""setup: uv and the shared virtual environment with the phase's packages."""

import sys

from runner.errors import UsageError
from runner.facts.fact import Asking
from runner.facts.packages import distribution
from runner.plan.command import Command, sh
from runner.plan.plan import HERE, Effect, Plan, Step
from runner.plan.settings import Phase, Settings
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


def packages(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The phase's deps, those that the instance maps replaced by what runs there, or left out."""
    mapped = dict(settings.instance.packages)
    named = (mapped.get(distribution(dep), dep) for dep in phase.deps)
    return tuple(dep for dep in named if dep is not None)


def setup_step(settings: Settings, phase: Phase) -> Step:
    """One idempotent command; uv itself finds that nothing is to do, in milliseconds."""
    if settings.instance.is_local:
        return Step("setup", local_setup(settings, phase), on=HERE, reason=setup_reason(len(phase.deps)))
    from runner.facts.preflights import passed
    from runner.verbs.remote_environment import remote_setup

    tested = passed(settings, phase)
    lock = tested.lock if tested else None
    reason = setup_reason(len(lock.pins) if lock else len(phase.deps), tested.at if tested else None)
    command = remote_setup(settings, phase, install_command("uv", settings, phase), lock)
    return Step("setup", command, on=settings.alias, reason=reason)


def setup_reason(num: int, tested_at: str | None = None) -> str:
    """`the shared environment, 205 packages as preflight locked them on 2026-11-24 (…)`."""
    wanted = f", {num} package{'s' * (num != 1)}" if num else ""
    locked = f" as preflight locked them on {tested_at[:10]}" if tested_at else ""
    return f"the shared environment{wanted}{locked} (nothing is done where all is there)"


def local_setup(settings: Settings, phase: Phase) -> Command:
    """Make the environment if it is missing, then install in it, with the uv that came with the runner.

    uv itself says in milliseconds whether anything would change, so nothing has to be remembered.
    """
    from uv import find_uv_bin

    uv, root, venv = find_uv_bin(), settings.paths.root, settings.paths.venv
    shown = str(venv.relative_to(root) if venv.is_relative_to(root) else venv)
    python = settings.instance.python or sys.executable
    exists = sh("test", "-x", f"{shown}/bin/python")
    make = sh(uv, "venv", "--quiet", "--python", python, shown)
    install = install_command(uv, settings, phase)
    tried = f'install() {{ {install.text} "$@"; }}; case "$(install --dry-run 2>&1)" in'
    nothing = "*'Would make no changes'*) echo 'nothing to do: all packages are there';;"
    asked = Command(f"{{ {tried} {nothing} *) install;; esac; }}")
    made = Command(f"{{ {exists.text} || {make.text}; }}")
    return (made & asked.in_venv(shown) if phase.deps else made).within(root)


def install_command(uv: str, settings: Settings, phase: Phase) -> Command:
    """`uv pip install` of what the phase needs on the machine, into the environment that is active."""
    install = sh(uv, "pip", "install", *index_options(settings), *packages(settings, phase))
    if overrides := overrides_for(settings, phase):
        lines = sh("printf", r"%s\n", *overrides)
        return Command(f"{install.text} --override <({lines.text})")
    return install


def overrides_for(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """What uv has to override for those of the phase's deps that the instance says so of."""
    asked = {distribution(dep) for dep in phase.deps}
    return tuple(line for name, lines in settings.instance.overrides if name in asked for line in lines)


def index_options(settings: Settings) -> tuple[str, ...]:
    """Where builds for this machine come from: a folder of wheels, else the index of the torch backend."""
    instance = settings.instance
    if instance.find_links:
        return ("--find-links", instance.find_links)
    return ("--torch-backend", instance.torch_backend) if instance.torch_backend else ()

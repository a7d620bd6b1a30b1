"""setup on this machine: the shared environment, the phase's packages by the runner's own uv, data."""

import sys

from runner.facts.preflights import Lock
from runner.plan.command import Command, sh
from runner.plan.settings import Phase, Settings
from runner.verbs.installing import Place, checked, install_lines
from runner.verbs.phase_data import fetch_data

OTHER_LOCK = "{checked} || {{ echo 'the lock is not the one that was tested' >&2; exit 65; }}"


def local_setup(settings: Settings, phase: Phase, lock: Lock | None) -> Command:
    """Make the environment if it is missing, then install in it: the `lock` that was tested here, or deps."""
    from uv import find_uv_bin

    uv, root, venv = find_uv_bin(), settings.paths.root, settings.paths.venv
    shown = str(venv.relative_to(root) if venv.is_relative_to(root) else venv)
    folder = f"{settings.paths.research_log.name}/{phase.name}"
    exists = sh("test", "-x", f"{shown}/bin/python").text
    make = sh(uv, "venv", "--quiet", "--python", settings.instance.python or sys.executable, shown).text
    lines = install_lines(settings, phase, Place(uv, shown, folder, str(lock.path) if lock else None))
    activate = (f"source {sh(f'{shown}/bin/activate').text} || exit",) if lines else ()
    same = (OTHER_LOCK.format(checked=checked(lock, str(lock.path))),) if lock else ()
    data = (fetch_data(folder, phase.data),) if phase.data else ()
    text = "\n".join((f"{{ {exists} || {make}; }} || exit", *activate, *same, *lines, *data))
    return Command(f"{sh('cd', root).text} && {text}")

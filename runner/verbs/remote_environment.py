"""setup on a rented machine: uv by the seed's installer, the shared environment, packages, data."""

from pathlib import PurePosixPath

from runner.facts.preflights import Lock
from runner.plan.command import Command, below, home_or_path, quote, sh, spell
from runner.plan.route import route_of
from runner.plan.settings import Phase, Settings
from runner.verbs.installing import Place, checked, install_lines
from runner.verbs.phase_data import fetch_data

# A fresh machine is still installing its own packages when it first answers: what fails while apt is
# locked is tried again. A pipe into sh hides a failed download, so that uv itself is looked for.
INSTALL_UV = """\
PATH=~/.local/bin:$PATH
for pause in 5 15 30 60 0; do
  command -v uv >/dev/null && break
  echo "installing uv"; ({install}); command -v uv >/dev/null || sleep $pause
done
command -v uv >/dev/null || {{ echo "uv could not be installed (remote.uv_install)" >&2; exit 69; }}"""

# The lock comes by standard input and is what preflight tested, or nothing is installed.
RECEIVE = """\
mkdir -p {folder} && cat > {file}.new && {checked} &&
  mv {file}.new {file} || {{ echo "the lock did not arrive whole" >&2; exit 65; }}"""

NOT_CLONED = """\
[ -d {code}/.git ] || echo "phase.source is not here yet: its own packages come after action=sync"
"""


def remote_setup(settings: Settings, phase: Phase, lock: Lock | None = None) -> Command:
    """One idempotent command on the machine; two at once wait for one another.

    What is installed is the `lock` that was tested, or the phase's deps by name.
    """
    venv = home_or_path(settings.remote.venv)
    root = spell(home_or_path(settings.remote.root))
    folder = f"{settings.paths.research_log.name}/{phase.name}"
    python = ("--python", settings.instance.python) if settings.instance.python else ()
    make = sh("uv", "venv", "--quiet", *python, venv)
    lines = [
        f"set -o pipefail; mkdir -p {root}/{quote(settings.paths.research_log.name)} && cd {root} || exit",
        *((receive(lock),) if lock else ()),
        "exec 9>>.setup.lock; flock 9",
        INSTALL_UV.format(install=settings.remote.uv_install),
        f"[ -x {spell(venv)}/bin/python ] || {make.text} || exit",
        f"source {spell(below(venv, 'bin/activate'))} || exit",
        *((NOT_CLONED.format(code=quote(folder)).rstrip(),) if phase.source else ()),
        *install_lines(settings, phase, Place("uv", venv, folder, lock_there(lock) if lock else None)),
        *((fetch_data(folder, phase.data),) if phase.data else ()),
    ]
    there = route_of(settings).ssh(Command("\n".join(lines)), stdin=lock is not None)
    return Command(f"{there.text} < {quote(str(lock.path))}") if lock else there


def receive(lock: Lock) -> str:
    """Takes the lock from standard input, and keeps it if it is the very one."""
    file = lock_there(lock)
    folder = str(PurePosixPath(file).parent)
    return RECEIVE.format(folder=folder, file=file, checked=checked(lock, f"{file}.new"))


def lock_there(lock: Lock) -> str:
    """Where the lock is kept on the machine, below the root."""
    return f".runner/locks/{lock.path.name}"

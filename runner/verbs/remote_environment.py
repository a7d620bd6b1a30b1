"""setup on a rented machine: uv by the seed's installer, the shared environment, packages, data."""

from pathlib import PurePosixPath

from runner.facts.preflights import Lock
from runner.plan.command import Command, below, home_or_path, quote, sh, spell
from runner.plan.route import route_of
from runner.plan.settings import Data, Phase, Settings

# A fresh machine is still installing its own packages when it first answers: what fails while apt is
# locked is tried again. A pipe into sh hides a failed download, so that uv itself is looked for.
INSTALL_UV = """\
PATH=~/.local/bin:$PATH
for pause in 5 15 30 60 0; do
  command -v uv >/dev/null && break
  echo "installing uv"; ({install}); command -v uv >/dev/null || sleep $pause
done
command -v uv >/dev/null || {{ echo "uv could not be installed (remote.uv_install)" >&2; exit 69; }}"""

# uv itself says in milliseconds whether anything would change, so nothing has to be remembered.
INSTALL = """\
install() {{ {install} "$@"; }}
case "$(install --dry-run 2>&1)" in
  *"Would make no changes"*) echo "nothing to do: all packages are there";;
  *) install || exit;;
esac"""

# `unfinished` tells a file that the command has only begun to write from one that it finished.
FETCH = """\
if [ -e {done} ] && [ ! -e {unfinished} ]; then echo "nothing to do: the data are there"; else
  mkdir -p {inside} && touch {unfinished}
  ( {command}
  ) || {{ code=$?; echo "phase.data could not be fetched; do it again to go on" >&2; exit $code; }}
  [ -e {done} ] || {{ echo {missing} >&2; exit 65; }}
  rm -f {unfinished}
fi"""


# The lock comes by standard input and is what preflight tested, or nothing is installed.
RECEIVE = """\
mkdir -p {folder} && cat > {file}.new && echo {line} | sha256sum --check --status &&
  mv {file}.new {file} || {{ echo "the lock did not arrive whole" >&2; exit 65; }}"""

# What is installed, in one line: `doctor` tells by it whether somebody else has been here.
REMEMBER = "uv pip freeze | sha256sum | cut -c1-64 > {venv}/installed.sha256"


def remote_setup(settings: Settings, phase: Phase, install: Command, lock: Lock | None = None) -> Command:
    """One idempotent command on the machine; two at once wait for one another.

    `install` is what installs the phase's packages in the environment that is active, if no `lock` says
    exactly what is to be there.
    """
    venv = spell(home_or_path(settings.remote.venv))
    root = spell(home_or_path(settings.remote.root))
    python = ("--python", settings.instance.python) if settings.instance.python else ()
    make = sh("uv", "venv", "--quiet", *python, home_or_path(settings.remote.venv))
    lines = [
        f"set -o pipefail; mkdir -p {root}/{quote(settings.paths.research_log.name)} && cd {root} || exit",
        *((receive(lock),) if lock else ()),
        "exec 9>>.setup.lock; flock 9",
        INSTALL_UV.format(install=settings.remote.uv_install),
        f"[ -x {venv}/bin/python ] || {make.text} || exit",
        f"source {spell(below(home_or_path(settings.remote.venv), 'bin/activate'))} || exit",
    ]
    if lock:
        install = sh("uv", "pip", "install", *torch_backend(settings), "-r", lock_there(lock))
    if phase.deps or lock:
        lines += [INSTALL.format(install=install.text), REMEMBER.format(venv=venv)]
    if phase.data:
        lines.append(fetch_data(f"{settings.paths.research_log.name}/{phase.name}", phase.data))
    there = route_of(settings).ssh(Command("\n".join(lines)), stdin=lock is not None)
    return Command(f"{there.text} < {quote(str(lock.path))}") if lock else there


def receive(lock: Lock) -> str:
    """Takes the lock from standard input; its checksum stands in the plan, so that the digest covers it."""
    file = lock_there(lock)
    return RECEIVE.format(
        folder=str(PurePosixPath(file).parent), file=file, line=quote(f"{lock.sha256}  {file}.new")
    )


def lock_there(lock: Lock) -> str:
    """Where the lock is kept on the machine, below the root."""
    return f".runner/locks/{lock.path.name}"


def torch_backend(settings: Settings) -> tuple[str, ...]:
    """The index that the lock's torch is from, where it is not the registry."""
    backend = settings.instance.torch_backend
    return ("--torch-backend", backend) if backend else ()


def fetch_data(folder: str, data: Data) -> str:
    """Large data, fetched once; runs in the phase's folder."""
    enter = sh("mkdir", "-p", folder) & sh("cd", folder)
    body = FETCH.format(
        done=quote(data.done),
        unfinished=quote(f"{data.done.rstrip('/')}.unfinished"),
        inside=quote(str(PurePosixPath(data.done).parent)),
        command=data.command,
        missing=quote(f"the command of phase.data ended well, but {data.done} is not there"),
    )
    return f"{enter.text} || exit\n{body}"

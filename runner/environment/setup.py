"""The verb `setup`: uv and the shared environment, here or on a machine, with what the phase installs."""

import sys
from dataclasses import dataclass
from pathlib import PurePosixPath

from runner.environment.passes import Lock
from runner.environment.requirements import distribution
from runner.errors import UsageError
from runner.plan.command import SHA256, Command, Word, below, home_or_path, quote, route_of, sh, shell_word
from runner.plan.next_command import overview_line
from runner.plan.plan import HERE, Effect, Plan, Step, target_of
from runner.plan.settings import Data, Phase, Settings
from runner.world.world import Asking

_PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


def _may_be_package(settings: Settings, phase: Phase) -> bool:
    """Whether to look for either: what is cloned may have them, a folder here shows whether it does."""
    folder = settings.paths.research_log / phase.name
    names = ("requirements.txt", *_PROJECT_FILES)
    return phase.source is not None or any((folder / name).is_file() for name in names)


def find_requirement_files(code: str) -> str:
    """Sets `files` to what uv reads requirements from, and `$project` to the file that makes a package.

    A pyproject.toml that only configures tools is no project. `code` is the folder, spelled for bash.
    """
    is_project = f"[ $file != pyproject.toml ] || grep -qE '^\\[(project|build-system)\\]' {code}/$file"
    first = f'[ -z "$project" ] && [ -f {code}/$file ] && {{ {is_project}; }}'
    listed = f"if [ -f {code}/requirements.txt ]; then files+=({code}/requirements.txt); fi"
    return (
        f"files=(); project=; {listed}; for file in {' '.join(_PROJECT_FILES)}; do if {first}; "
        f'then project={code}/$file; files+=("$project"); fi; done'
    )


# `unfinished` tells a file that the command has only begun to write from one that it finished.
_FETCH = """\
if [ -e {done} ] && [ ! -e {unfinished} ]; then echo "nothing to do: the data are there"; else
  mkdir -p {inside} && touch {unfinished}
  ( {command}
  ) || {{ code=$?; echo "phase.data could not be fetched; do it again to go on" >&2; exit $code; }}
  [ -e {done} ] || {{ echo {missing} >&2; exit 65; }}
  rm -f {unfinished}
fi"""


def _fetch_data(folder: str, data: Data) -> str:
    """Runs in the phase's folder, which is relative to the current one."""
    enter = sh("mkdir", "-p", folder) & sh("cd", folder)
    body = _FETCH.format(
        done=quote(data.done),
        unfinished=quote(f"{data.done.rstrip('/')}.unfinished"),
        inside=quote(str(PurePosixPath(data.done).parent)),
        command=data.command,
        missing=quote(f"the command of phase.data ended well, but {data.done} is not there"),
    )
    return f"{enter.text} || exit\n{body}"


# uv itself says in milliseconds whether anything would change, so nothing has to be remembered.
_INSTALL = """\
install() {{ {install} "$@"; }}
case "$(install --dry-run 2>&1)" in
  *"Would make no changes"*) echo "nothing to do: all packages are there";;
  *) install || exit;;
esac"""

# An editable install follows the code by itself, and uv would make it anew each time: so another
# commit or other metadata are what makes it again.
_OWN = """\
own() {{ (cd {code} && {{ pwd; cat {files} .git/cloned; true; }} 2>/dev/null | {sha256}); }}
if [ -n "$project" ]; then
  if [ "$(cat {mark} 2>/dev/null)" = "$(own)" ] && {uv} pip freeze 2>/dev/null | grep -q "^-e "; then
    echo "nothing to do: the phase's own package is there"
  else {uv} pip install {options}--no-deps -e {code} && own >{mark} || exit; fi
fi"""

# What is installed, in one line: `doctor` tells by it whether somebody else has been here.
_REMEMBER = "{uv} pip freeze 2>/dev/null | {sha256} | cut -c1-64 > {venv}/installed.sha256"


@dataclass(frozen=True)
class _Place:
    """Where packages go: uv, the environment and the phase's folder; `lock` as it is named there."""

    uv: Word
    venv: Word
    code: str
    lock: str | None = None


def _install_lines(settings: Settings, phase: Phase, place: _Place) -> tuple[str, ...]:
    """The lock if one was tested, else the deps; then the package that the phase's folder may be."""
    uv, venv = shell_word(place.uv), shell_word(place.venv)
    has_own = _may_be_package(settings, phase)
    lines = [find_requirement_files(quote(place.code))] if has_own else []
    if place.lock:
        lock = sh(place.uv, "pip", "install", *_index_options(settings), "--no-deps", "-r", place.lock)
        lines.append(_INSTALL.format(install=lock.text))
    elif phase.deps or has_own:
        lines.append(_deps_lines(settings, phase, place, has_own))
    if has_own:
        lines.append(_own_package(settings, phase, place))
    return (*lines, _REMEMBER.format(uv=uv, venv=venv, sha256=SHA256)) if lines else ()


def _deps_lines(settings: Settings, phase: Phase, place: _Place, has_own: bool) -> str:
    """By the names in the YAML, and what the phase's own files list."""
    install = _install_command(place.uv, settings, phase).text
    if not has_own:
        return _INSTALL.format(install=install)
    listed = 'for file in "${files[@]}"; do listed+=(-r "$file"); done'
    asked = _INSTALL.format(install=f'{install} "${{listed[@]}}"')
    return f"listed=(); {listed}\n" + (asked if phase.deps else f'[ -z "$files" ] || {{\n{asked}\n}}')


def _own_package(settings: Settings, phase: Phase, place: _Place) -> str:
    """Installs the package that the phase's folder is, once, where there is one."""
    options = sh(*_index_options(settings)).text
    return _OWN.format(
        uv=shell_word(place.uv),
        sha256=SHA256,
        code=quote(place.code),
        files=" ".join(_PROJECT_FILES),
        mark=f"{shell_word(place.venv)}/{quote(f'{phase.name}.own')}",
        options=f"{options} " if options else "",
    )


def packages(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The phase's deps, those that the instance maps replaced by what runs there, or left out."""
    mapped = dict(settings.instance.packages)
    named = (mapped.get(distribution(dep), dep) for dep in phase.deps)
    return tuple(dep for dep in named if dep is not None)


def _install_command(uv: Word, settings: Settings, phase: Phase) -> Command:
    """`uv pip install` of the phase's deps as the instance maps them."""
    install = sh(uv, "pip", "install", *_index_options(settings), *packages(settings, phase))
    if overrides := overrides_for(settings, phase):
        lines = sh("printf", r"%s\n", *overrides)
        return Command(f"{install.text} --override <({lines.text})")
    return install


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


def _checked(lock: Lock, file: str) -> str:
    """Whether the file is the very lock: its checksum stands in the plan, so that the digest covers it."""
    return f"{SHA256} < {quote(file)} | cut -c1-64 | grep -qx {lock.sha256}"


_OTHER_LOCK = "{checked} || {{ echo 'the lock is not the one that was tested' >&2; exit 65; }}"


def _local_setup(settings: Settings, phase: Phase, lock: Lock | None) -> Command:
    """Make the environment if it is missing, then install in it: the `lock` that was tested here, or deps."""
    from uv import find_uv_bin

    uv, root, venv = find_uv_bin(), settings.paths.root, settings.paths.venv
    shown = str(venv.relative_to(root) if venv.is_relative_to(root) else venv)
    folder = f"{settings.paths.research_log.name}/{phase.name}"
    exists = sh("test", "-x", f"{shown}/bin/python").text
    make = sh(uv, "venv", "--quiet", "--python", settings.instance.python or sys.executable, shown).text
    lines = _install_lines(settings, phase, _Place(uv, shown, folder, str(lock.path) if lock else None))
    activate = (f"source {sh(f'{shown}/bin/activate').text} || exit",) if lines else ()
    same = (_OTHER_LOCK.format(checked=_checked(lock, str(lock.path))),) if lock else ()
    data = (_fetch_data(folder, phase.data),) if phase.data else ()
    text = "\n".join((f"{{ {exists} || {make}; }} || exit", *activate, *same, *lines, *data))
    return Command(f"{sh('cd', root).text} && {text}")


# A fresh machine is still installing its own packages when it first answers: what fails while apt is
# locked is tried again. A pipe into sh hides a failed download, so that uv itself is looked for.
_INSTALL_UV = """\
PATH=~/.local/bin:$PATH
for pause in 5 15 30 60 0; do
  command -v uv >/dev/null && break
  echo "installing uv"; ({install}); command -v uv >/dev/null || sleep $pause
done
command -v uv >/dev/null || {{ echo "uv could not be installed (remote.uv_install)" >&2; exit 69; }}"""

# The lock comes by standard input and is what preflight tested, or nothing is installed.
_RECEIVE = """\
mkdir -p {folder} && cat > {file}.new && {checked} &&
  mv {file}.new {file} || {{ echo "the lock did not arrive whole" >&2; exit 65; }}"""

_NOT_CLONED = """\
[ -d {code}/.git ] || echo "phase.source is not here yet: its own packages come after action=sync"
"""


def _remote_setup(settings: Settings, phase: Phase, lock: Lock | None = None) -> Command:
    """One idempotent command on the machine; two at once wait for one another.

    What is installed is the `lock` that was tested, or the phase's deps by name.
    """
    venv = home_or_path(settings.remote.venv)
    root = shell_word(home_or_path(settings.remote.root))
    folder = f"{settings.paths.research_log.name}/{phase.name}"
    python = ("--python", settings.instance.python) if settings.instance.python else ()
    make = sh("uv", "venv", "--quiet", *python, venv)
    lines = [
        f"set -o pipefail; mkdir -p {root}/{quote(settings.paths.research_log.name)} && cd {root} || exit",
        *((_receive(lock),) if lock else ()),
        "exec 9>>.setup.lock; flock 9",
        _INSTALL_UV.format(install=settings.remote.uv_install),
        f"[ -x {shell_word(venv)}/bin/python ] || {make.text} || exit",
        f"source {shell_word(below(venv, 'bin/activate'))} || exit",
        *((_NOT_CLONED.format(code=quote(folder)).rstrip(),) if phase.source else ()),
        *_install_lines(settings, phase, _Place("uv", venv, folder, _lock_there(lock) if lock else None)),
        *((_fetch_data(folder, phase.data),) if phase.data else ()),
    ]
    there = route_of(settings).ssh(Command("\n".join(lines)), stdin=lock is not None)
    return Command(f"{there.text} < {quote(str(lock.path))}") if lock else there


def _receive(lock: Lock) -> str:
    """Takes the lock from standard input, and keeps it if it is the very one."""
    file = _lock_there(lock)
    folder = str(PurePosixPath(file).parent)
    return _RECEIVE.format(folder=folder, file=file, checked=_checked(lock, f"{file}.new"))


def _lock_there(lock: Lock) -> str:
    """Where the lock is kept on the machine, below the root."""
    return f".runner/locks/{lock.path.name}"


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
    command = _local_setup(settings, phase, lock) if local else _remote_setup(settings, phase, lock)
    num = len(lock.pins) if lock else len(phase.deps)
    reason = _setup_reason(num, tested.at if tested else None)
    return Step("setup", command, on=HERE if local else settings.alias, reason=reason)


def _setup_reason(num: int, tested_at: str | None = None) -> str:
    """`the shared environment, 205 packages as preflight locked them on 2026-11-24 (…)`."""
    wanted = f", {num} package{'s' * (num != 1)}" if num else ""
    locked = f" as preflight locked them on {tested_at[:10]}" if tested_at else ""
    return f"the shared environment{wanted}{locked} (nothing is done where all is there)"

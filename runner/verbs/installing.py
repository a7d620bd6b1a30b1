"""The bash that installs what a phase needs into the environment that is active, here or on a machine."""

from dataclasses import dataclass

from runner.facts.packages import distribution
from runner.facts.preflights import Lock
from runner.plan.command import SHA256, Command, Word, quote, sh, spell
from runner.plan.settings import Phase, Settings
from runner.verbs.project import PROJECT_FILES, looked_for, may_have_own

# uv itself says in milliseconds whether anything would change, so nothing has to be remembered.
INSTALL = """\
install() {{ {install} "$@"; }}
case "$(install --dry-run 2>&1)" in
  *"Would make no changes"*) echo "nothing to do: all packages are there";;
  *) install || exit;;
esac"""

# An editable install follows the code by itself, and uv would make it anew each time: so another
# commit or other metadata are what makes it again.
OWN = """\
own() {{ (cd {code} && {{ pwd; cat {files} .git/cloned; true; }} 2>/dev/null | {sha256}); }}
if [ -n "$project" ]; then
  if [ "$(cat {mark} 2>/dev/null)" = "$(own)" ] && {uv} pip freeze 2>/dev/null | grep -q "^-e "; then
    echo "nothing to do: the phase's own package is there"
  else {uv} pip install {options}--no-deps -e {code} && own >{mark} || exit; fi
fi"""

# What is installed, in one line: `doctor` tells by it whether somebody else has been here.
REMEMBER = "{uv} pip freeze 2>/dev/null | {sha256} | cut -c1-64 > {venv}/installed.sha256"


@dataclass(frozen=True)
class Place:
    """Where packages go: uv, the environment and the phase's folder; `lock` as it is named there."""

    uv: Word
    venv: Word
    code: str
    lock: str | None = None


def install_lines(settings: Settings, phase: Phase, place: Place) -> tuple[str, ...]:
    """The lock if one was tested, else the deps; then the package that the phase's folder may be."""
    uv, venv = spell(place.uv), spell(place.venv)
    has_own = may_have_own(settings, phase)
    lines = [looked_for(quote(place.code))] if has_own else []
    if place.lock:
        lock = sh(place.uv, "pip", "install", *index_options(settings), "--no-deps", "-r", place.lock)
        lines.append(INSTALL.format(install=lock.text))
    elif phase.deps or has_own:
        lines.append(deps_lines(settings, phase, place, has_own))
    if has_own:
        lines.append(own_package(settings, phase, place))
    return (*lines, REMEMBER.format(uv=uv, venv=venv, sha256=SHA256)) if lines else ()


def deps_lines(settings: Settings, phase: Phase, place: Place, has_own: bool) -> str:
    """By the names in the YAML, and what the phase's own files list."""
    install = install_command(place.uv, settings, phase).text
    if not has_own:
        return INSTALL.format(install=install)
    listed = 'for file in "${files[@]}"; do listed+=(-r "$file"); done'
    asked = INSTALL.format(install=f'{install} "${{listed[@]}}"')
    return f"listed=(); {listed}\n" + (asked if phase.deps else f'[ -z "$files" ] || {{\n{asked}\n}}')


def own_package(settings: Settings, phase: Phase, place: Place) -> str:
    """Installs the package that the phase's folder is, once, where there is one."""
    options = sh(*index_options(settings)).text
    return OWN.format(
        uv=spell(place.uv),
        sha256=SHA256,
        code=quote(place.code),
        files=" ".join(PROJECT_FILES),
        mark=f"{spell(place.venv)}/{quote(f'{phase.name}.own')}",
        options=f"{options} " if options else "",
    )


def packages(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The phase's deps, those that the instance maps replaced by what runs there, or left out."""
    mapped = dict(settings.instance.packages)
    named = (mapped.get(distribution(dep), dep) for dep in phase.deps)
    return tuple(dep for dep in named if dep is not None)


def install_command(uv: Word, settings: Settings, phase: Phase) -> Command:
    """`uv pip install` of the phase's deps as the instance maps them."""
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


def checked(lock: Lock, file: str) -> str:
    """Whether the file is the very lock: its checksum stands in the plan, so that the digest covers it."""
    return f"{SHA256} < {quote(file)} | cut -c1-64 | grep -qx {lock.sha256}"

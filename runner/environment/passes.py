"""What preflight leaves below `.runner/`: a lock for each set of requirements, a record for each pass.

    locks/<key>.txt            names, versions and hashes for one kind of machine; what `setup` installs there
    preflights/<key>.json      these deps, scripts, image and lock have passed
    preflights/<key>.newest    the newest versions of the deps that have no lower bound
    preflights/<key>.log       what the tools printed

Keys are of content alone: the same deps for the same image have the same lock, whatever phase asks.
"""

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from runner.environment.requirements import (
    Requirement,
    distribution,
    listed_requirements,
    script_requirements,
    text_of,
)
from runner.plan.settings import Phase, Settings
from runner.trial import (
    Imports,
    bytes_of,
    has_parser,
    input_modules,
    is_shell,
    module_folders,
    newer_than_ours,
    problems_in,
    script_imports,
    source_text,
)

# Raised when what preflight does changes so much that older passes say too little.
_FORMAT = 1

DEPS = "phase.deps"  # where a requirement is from that the YAML or the command line names

_PIN = re.compile(r"(?m)^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")


@dataclass(frozen=True)
class Lock:
    """The lock of a phase for a kind of machine, as it is on disk. `pins` are (name, version), sorted."""

    key: str
    path: Path
    sha256: str
    pins: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PreflightInput:
    """All that a preflight tests, read off the files. `folder` is the phase's, for its relative names."""

    requirements: tuple[Requirement, ...]
    listed: tuple[Requirement, ...]  # of requirements.txt, which uv reads itself
    project: str  # the phase folder's pyproject.toml, if it is a package
    imports: Imports
    scripts_with_help: tuple[str, ...]
    shell_scripts: tuple[tuple[str, str], ...] = ()  # (name, sha256): bash reads them, we do not
    modules_of_inputs: tuple[str, ...] = ()  # Python files among phase.inputs, from the root
    unreadable: tuple[tuple[str, str], ...] = ()  # what the machine's Python cannot read, and why
    newer: tuple[str, ...] = ()  # what it alone can read, and ours cannot

    @property
    def beside_imports(self) -> tuple[tuple[object, ...], ...]:
        """What else a pass depends on, where there is any."""
        return (self.shell_scripts, self.modules_of_inputs, self.unreadable, self.newer)

    @property
    def is_empty(self) -> bool:
        """Whether the standard library is all that is needed, by scripts that can be read."""
        asks = self.requirements or self.listed or self.project or self.imports.top
        return not (asks or self.shell_scripts or self.unreadable or self.newer)


def preflight_input(settings: Settings, phase: Phase) -> PreflightInput:
    """The deps of the YAML, of the scripts' PEP 723 blocks, of requirements.txt; the scripts' imports."""
    paths = settings.paths
    folder = paths.research_log / phase.name
    modules = input_modules(paths.root, folder, phase.inputs)
    inputs = module_folders(modules)
    scripts = {name: folder / name for name in dict.fromkeys(job.entrypoint for job in phase.jobs)}
    python = {name: path for name, path in scripts.items() if not is_shell(path)}
    asked = [Requirement(dep, DEPS) for dep in phase.deps]
    top: dict[str, None] = {}
    inner: dict[str, None] = {}
    for path in python.values():
        named = script_requirements(source_text(bytes_of(path)), paths.shown(path))
        asked += [r for r in named if r.text not in {a.text for a in asked}]
        found = script_imports(path, folder, inputs)
        top |= dict.fromkeys(found.top)
        inner |= dict.fromkeys(found.inner)
    top |= dict.fromkeys(f"import {module}" for module in phase.imports)
    listed = folder / "requirements.txt"
    return PreflightInput(
        requirements=tuple(asked),
        listed=listed_requirements(text_of(listed), paths.shown(listed)),
        project=text_of(folder / "pyproject.toml"),
        imports=Imports(tuple(top), tuple(line for line in inner if line not in top)),
        scripts_with_help=tuple(name for name, path in python.items() if has_parser(bytes_of(path))),
        shell_scripts=tuple(
            (name, sha256(bytes_of(path)).hexdigest()) for name, path in scripts.items() if name not in python
        ),
        modules_of_inputs=tuple(str(path.relative_to(paths.root)) for path in modules),
        unreadable=problems_in(python.values(), folder, inputs, python_version(settings)),
        newer=newer_than_ours(python.values(), folder, inputs, python_version(settings)),
    )


_VERSION = re.compile(r"\d+(\.\d+)*")


def python_version(settings: Settings) -> str | None:
    """The version of the machine's Python, where the instance tells it; `python` may be a path."""
    python = settings.instance.python
    return python if python and _VERSION.fullmatch(python) else None


def _digest_of(*parts: object) -> str:
    """12 hex digits of a content."""
    return sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()[:12]


def lock_key(settings: Settings, subject: PreflightInput) -> str:
    """Names the lock by what is resolved and for what: image, Python, processor, CUDA backend."""
    machine, phase = settings.instance, settings.phase
    source = phase.source if phase else None
    return _digest_of(
        [r.text for r in (*subject.requirements, *subject.listed)],
        subject.project,
        [source.git, source.ref] if source else None,
        [machine.platform, machine.python, machine.image, machine.torch_backend],
        [machine.packages, machine.overrides],
        phase.builds if phase else (),
    )


def pass_key(settings: Settings, subject: PreflightInput) -> str:
    """Names the pass: the lock's content, what is imported, and how GPU packages were replaced here."""
    phase = settings.phase
    stand_ins = "".join(text_of(folder / "instance/local.yaml") for folder in settings.paths.conf)
    return _digest_of(
        lock_key(settings, subject),
        [subject.imports.top, subject.imports.inner, subject.scripts_with_help],
        stand_ins,
        phase.stand_ins if phase else (),
        *(part for part in subject.beside_imports if part),
    )


def lock_path(settings: Settings, key: str) -> Path:
    """Where the lock of this key is, or will be."""
    return settings.paths.state / "locks" / f"{key}.txt"


def record_path(settings: Settings, key: str, suffix: str = "json") -> Path:
    """Where the record of this pass is, or will be."""
    return settings.paths.state / "preflights" / f"{key}.{suffix}"


def read_lock(path: Path) -> Lock | None:
    """The lock on disk; None when there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return Lock(path.stem, path, sha256(content).hexdigest(), pins_in(content.decode()))


def pins_in(text: str) -> tuple[tuple[str, str], ...]:
    """(name, version) of each pin of a lock, sorted."""
    return tuple(sorted((distribution(name), version) for name, version in _PIN.findall(text)))


@dataclass(frozen=True)
class Passed:
    """A pass that still holds: when, with which lock, and the commit of phase.source that was tested."""

    key: str
    at: str
    lock: Lock
    source_commit: str | None = None


def find_pass(settings: Settings, phase: Phase, subject: PreflightInput | None = None) -> Passed | None:
    """The pass of this very content, if there was one and its lock is still what it was."""
    if not (settings.paths.state / "preflights").is_dir():
        return None  # nothing has passed yet: the scripts need not be read
    subject = subject or preflight_input(settings, phase)
    key = pass_key(settings, subject)
    lock = read_lock(lock_path(settings, lock_key(settings, subject)))
    try:
        said = json.loads(record_path(settings, key).read_text())
        if lock is None or said["lock_sha256"] != lock.sha256:
            return None
        return Passed(key, str(said["passed_at"]), lock, said.get("source_commit") or None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lock_of(settings: Settings, phase: Phase) -> Lock | None:
    """The lock that a passed preflight of these deps made for this kind of machine: what `setup` installs."""
    holds = find_pass(settings, phase)
    return holds.lock if holds else None

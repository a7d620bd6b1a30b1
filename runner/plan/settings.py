"""The configuration as the verbs see it: frozen, checked, every default filled in."""

from dataclasses import dataclass, field
from pathlib import Path

Scalar = str | int | float | bool | None
Value = Scalar | tuple[Scalar, ...]
LOCAL = "local"


def script_text(value: Value) -> str:
    """A scalar as a script gets it: true and false in lower case, numbers as Python prints them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Job:
    """One script of a phase. `args` and `env` keep the order of the YAML; a None in `env` passes by name.

    `fold` names the arguments that decide what is loaded: members of a sweep that agree in them
    share one process. None: this job cannot be folded.
    """

    name: str
    entrypoint: str
    args: tuple[tuple[str, Value], ...] = ()
    env: tuple[tuple[str, str | None], ...] = ()
    fold: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Data:
    """Large data that the machine fetches itself: `command` is run there until the file `done` exists."""

    command: str
    done: str


@dataclass(frozen=True)
class Source:
    """Code that is cloned rather than pushed."""

    git: str
    ref: str


@dataclass(frozen=True)
class Phase:
    """One folder of the research log, as its YAML declares it. Paths are relative to that folder."""

    name: str
    choice: str
    deps: tuple[str, ...] = ()
    batch_size: int | None = None
    artifacts: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    data: Data | None = None
    source: Source | None = None
    imports: tuple[str, ...] = ()
    stand_ins: tuple[tuple[str, str | None], ...] = ()
    builds: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()

    def job(self, name: str) -> Job | None:
        """The job of this name, if the phase declares it."""
        return next((job for job in self.jobs if job.name == name), None)


@dataclass(frozen=True)
class Instance:
    """A kind of machine: this one, or what to rent and how long to wait for it."""

    choice: str
    name: str
    provider: str
    types: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    usd_per_hour: float = 0.0
    max_usd_per_hour: float | None = None
    image: str | None = None
    filesystem: str | None = None
    python: str | None = None
    platform: str | None = None
    cuda: bool = False
    wait_limit_s: float = 1200.0
    packages: tuple[tuple[str, str | None], ...] = ()
    overrides: tuple[tuple[str, tuple[str, ...]], ...] = ()
    find_links: str | None = None
    torch_backend: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether this is the machine the runner is on."""
        return self.provider == LOCAL


@dataclass(frozen=True)
class Remote:
    """Where things are on a rented machine; `~/` is its home folder."""

    root: str
    venv: str
    uv_install: str


@dataclass(frozen=True)
class Ssh:
    """How machines are reached. `config` is absolute; `is_default` when it is OpenSSH's own."""

    config: Path
    is_default: bool
    port: int = 22
    user: str = "ubuntu"
    identity: Path | None = None


@dataclass(frozen=True)
class Paths:
    """Where things are on this machine, all absolute. `cwd` is where the command was typed."""

    checkout: Path
    research_log: Path
    state: Path
    venv: Path
    cwd: Path
    conf: tuple[Path, ...] = ()

    @property
    def root(self) -> Path:
        """The folder that jobs run in."""
        return self.research_log.parent

    def shown(self, path: Path) -> str:
        """The path as a person in `cwd` would type it."""
        return str(path.relative_to(self.cwd)) if path.is_relative_to(self.cwd) else str(path)


@dataclass(frozen=True)
class DoctorRule:
    """A rule of the person's own: a line of the log that matches `pattern` shows the symptom."""

    symptom: str
    pattern: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Settings:
    """Everything one command line says. `typed` are its arguments without `confirm` and `output`."""

    action: str
    phase: Phase | None
    instance: Instance
    paths: Paths
    remote: Remote
    ssh: Ssh
    base_url: str
    time_scale: float = 1.0
    generation: tuple[tuple[str, Value], ...] = ()
    batch_size: int | None = None
    machine: str | None = None
    confirm: str = "false"
    output: str = "text"
    command: str | None = None
    run: str | None = None
    lines: int | None = None
    resume: str | None = None
    discard: tuple[str, ...] = ()
    wait_for_capacity_s: float | None = None
    budget_usd: float | None = None
    require_preflight: bool = False
    doctor_rules: tuple[DoctorRule, ...] = ()
    doctor_silent_s: float = 600.0
    program: str = "python -m runner"
    typed: tuple[str, ...] = field(default=())

    @property
    def alias(self) -> str:
        """What ssh calls the machine."""
        return self.machine or self.instance.name

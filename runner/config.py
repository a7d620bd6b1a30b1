"""The typed schema of conf/; importing this module registers it with Hydra."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import II, OmegaConf

CHECKOUT = Path(__file__).resolve().parent.parent
CONF = CHECKOUT / "conf"
SHARED_VENV = "phase11-fractal-logic/.venv"
GROUPS = ("phase", "instance", "generation")

# Optional[...] rather than `| None`: OmegaConf 2.3 reads these annotations.


@dataclass
class JobConf:
    """`entrypoint` is a script of the phase's folder, or a path below it."""

    entrypoint: Optional[str] = None
    args: dict[str, Any] = field(default_factory=dict)  # --key=value; null leaves it out
    env: dict[str, Any] = field(default_factory=dict)  # null passes the caller's value by name
    fold: Optional[dict[str, Any]] = None  # load_key: the arguments that decide what is loaded


@dataclass
class DataConf:
    """Large data, fetched on the machine by `setup` unless `done` is there."""

    command: Optional[str] = None
    done: Optional[str] = None


@dataclass
class SourceConf:
    """A repository to clone fresh, at a commit."""

    git: Optional[str] = None
    ref: Optional[str] = None


@dataclass
class PreflightConf:
    """What preflight tries beyond the scripts' own imports."""

    imports: list[str] = field(default_factory=list)  # modules, as `import` names them
    packages: dict[str, Optional[str]] = field(
        default_factory=dict
    )  # what stands in for it here; null: nothing
    builds: list[str] = field(default_factory=list)  # packages that may be compiled on the machine


@dataclass
class PhaseConf:
    """One phase; `name` is its folder in the research log."""

    name: Optional[str] = None
    deps: list[str] = field(default_factory=list)
    batch_size: Optional[int] = None
    artifacts: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    data: Optional[DataConf] = None
    source: Optional[SourceConf] = None
    preflight: PreflightConf = field(default_factory=PreflightConf)
    jobs: dict[str, JobConf] = field(default_factory=dict)


@dataclass
class InstanceConf:
    """A kind of machine; conf/instance/*.yaml say what each key is for."""

    provider: str = "lambda"
    name: str = "lambda"
    types: list[str] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)
    usd_per_hour: float = 0.0
    max_usd_per_hour: Optional[float] = None
    image: Optional[str] = None
    filesystem: Optional[str] = None
    python: Optional[str] = None
    platform: Optional[str] = None
    cuda: bool = False
    wait_limit_s: float = 1200.0
    packages: dict[str, Optional[str]] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    find_links: Optional[str] = None
    torch_backend: Optional[str] = None


@dataclass
class GenerationConf:
    """Sampling parameters, by the names that inference engines use."""

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1
    max_tokens: int = 128
    seed: int = 0


@dataclass
class PathsConf:
    """Places on this machine."""

    research_log: str = "research-log"
    state: str = ".runner"
    venv: Optional[str] = None


@dataclass
class RemoteConf:
    """Places on a rented machine, and how uv gets there."""

    root: str = "~/Fractal"
    venv: str = f"research-log/{SHARED_VENV}"
    uv_install: str = "curl -LsSf https://astral.sh/uv/install.sh | sh"


@dataclass
class CloudConf:
    """The API endpoint."""

    base_url: str = "https://cloud.lambda.ai/api/v1"
    time_scale: float = 1.0


@dataclass
class SshConf:
    """How machines are reached."""

    config: str = "~/.ssh/config"
    port: int = 22
    user: str = "ubuntu"
    identity: Optional[str] = None


@dataclass
class DoctorRuleConf:
    """A symptom that a line of a run's log shows."""

    symptom: str = ""
    pattern: str = ""  # a regular expression, looked for in each of the log's last lines
    cause: str = ""
    remedy: str = ""  # the command line that mends it


@dataclass
class DoctorConf:
    """What `doctor` knows beside its own rules; a phase's YAML may add some too."""

    rules: dict[str, DoctorRuleConf] = field(default_factory=dict)
    silent_s: float = 600.0


@dataclass
class RunnerConf:
    """All keys of the command line; conf/config.yaml says what each is for."""

    action: str = "discover"
    batch_size: Optional[int] = II("phase.batch_size")
    machine: Optional[str] = None
    confirm: str = "false"
    output: str = "text"
    command: Optional[str] = None
    run: Optional[str] = None
    lines: Optional[int] = None
    resume: Optional[str] = None
    discard: list[str] = field(default_factory=list)
    wait_for_capacity: Optional[str] = None
    budget_usd: Optional[float] = None
    require_preflight: bool = False
    phase: PhaseConf = field(default_factory=PhaseConf)
    instance: InstanceConf = field(default_factory=InstanceConf)
    generation: GenerationConf = field(default_factory=GenerationConf)
    paths: PathsConf = field(default_factory=PathsConf)
    remote: RemoteConf = field(default_factory=RemoteConf)
    cloud: CloudConf = field(default_factory=CloudConf)
    ssh: SshConf = field(default_factory=SshConf)
    doctor: DoctorConf = field(default_factory=DoctorConf)


def group_choices(group: str, folders: tuple[Path, ...]) -> list[str]:
    """The names of the files of conf/<group>/, sorted."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def find_links() -> str | None:
    """The folder of wheels that uv or pip is configured with here, which uv does not read by itself.

    From $UV_FIND_LINKS, $PIP_FIND_LINKS, or `find-links` in pip's configuration files; the first one.
    """
    import configparser
    import os

    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS"):
        if os.environ.get(name):
            return re.split(r"[\s,]+", os.environ[name].strip())[0]
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    system = (Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf"))
    for file in (config_home / "pip/pip.conf", home / ".pip/pip.conf", *system):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(file)
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("install", "global"):
            if links := parser.get(section, "find-links", fallback="").split():
                return links[0]
    return None


def register() -> None:
    """Make the schema and the resolvers known to Hydra; doing it twice changes nothing."""
    ConfigStore.instance().store(name="runner_schema", node=RunnerConf, provider="runner")
    OmegaConf.register_new_resolver("find_links", find_links, replace=True)


register()

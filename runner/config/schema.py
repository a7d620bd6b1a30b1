"""The typed schema of conf/, and its types in words; importing this module registers it with Hydra."""

import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Optional, Union, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import II, OmegaConf

from runner.errors import UsageError
from runner.plan.settings import script_text

CHECKOUT = Path(__file__).resolve().parent.parent.parent
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


def _register() -> None:
    """Make the schema and the resolvers known to Hydra; doing it twice changes nothing."""
    ConfigStore.instance().store(name="runner_schema", node=RunnerConf, provider="runner")
    OmegaConf.register_new_resolver("find_links", find_links, replace=True)


_register()


_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def type_at(key: str, root: Any = RunnerConf) -> Any:
    """The type of the dotted key in the schema; None where the schema has no such key."""
    for part in key.split(".") if key else ():
        root = inner_type(bare(root), part)
        if root is None:
            return None
    return root


def inner_type(kind: Any, name: str) -> Any:
    """What stands behind a name of a section, or of a mapping whose names are free."""
    if is_dataclass(kind):
        return next((field.type for field in fields(kind) if field.name == name), None)
    return get_args(kind)[1] if get_origin(kind) is dict else Any if kind is Any else None


def bare(kind: Any) -> Any:
    """The type without its Optional."""
    options = [option for option in get_args(kind) if option is not type(None)]
    return options[0] if get_origin(kind) in (Union, UnionType) else kind


def may_be_null(kind: Any) -> bool:
    """Whether null is a value of this type."""
    return kind is Any or type(None) in get_args(kind)


def keys_of(kind: Any) -> list[str]:
    """The names that a section has; none for what is no section, or whose names are free."""
    kind = bare(kind)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else []


def is_section_key(key: str) -> bool:
    """Whether this key is one of a section, which needs all of its own."""
    parent, _, name = key.rpartition(".")
    return name in keys_of(type_at(parent))


_ENV = re.compile(r"phase\.jobs\.[^.]+\.env\.[^.]+")


def is_text(kind: Any, key: str) -> bool:
    """Whether a text is what stands behind this key of this type."""
    return bare(kind) is str or bool(_ENV.fullmatch(key))


def arrives_as(value: Any, key: str) -> str:
    """The text that a text key makes of what YAML or Hydra's grammar read there."""
    return script_text(value) if _ENV.fullmatch(key) else str(value)


def wanted(kind: Any) -> str:
    """`a whole number or null`, `a list such as [a, b]`, or a section with its keys."""
    orelse, kind = " or null" * (may_be_null(kind) and kind is not Any), bare(kind)
    if is_dataclass(kind):
        return f"a section with the keys {', '.join(keys_of(kind))}{orelse}"
    if get_origin(kind) is dict:
        inside = bare(get_args(kind)[1])
        what = f"each with {', '.join(keys_of(inside))}" if is_dataclass(inside) else "{name: value}"
        return f"a mapping from names of yours, {what}{orelse}"
    return ("a list such as [a, b]" if get_origin(kind) is list else _SCALARS.get(kind, "a value")) + orelse


def refuse_mismatch(value: Any, kind: Any = RunnerConf, key: str = "") -> None:
    """UsageError for what an interpolation brought that the schema does not want there."""
    if (value is None and may_be_null(kind)) or kind is Any:
        return
    kind = bare(kind)
    if not _fits(value, kind):
        raise UsageError(f"{key} comes to {_shortened(value)} here; it must be {wanted(kind)}")
    for name, item in value.items() if isinstance(value, dict) else ():
        if inner := inner_type(kind, name):  # keys added with + that the schema does not know are unchecked
            refuse_mismatch(item, inner, f"{key}.{name}" if key else str(name))


def _fits(value: Any, kind: Any) -> bool:
    """Whether the value has the shape of the type: its keys, if it is a section."""
    if is_dataclass(kind):
        return isinstance(value, dict) and set(keys_of(kind)) <= set(value)
    plain = get_origin(kind) or kind
    return isinstance(value, int | float if plain is float else plain)


def _shortened(value: Any) -> str:
    """The value on a part of a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

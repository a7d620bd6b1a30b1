"""From the composed configuration to frozen Settings; from here on nothing is unresolved or unchecked."""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from pwd import getpwuid
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.compose import CommandLine, absolute, compose_config, conf_folders
from runner.config.schema import CHECKOUT, CONF, GROUPS, SHARED_VENV, refuse_mismatch
from runner.config.short import in_full, told_short, with_phase_file
from runner.errors import UsageError, choices
from runner.plan.plan import DIGEST
from runner.plan.settings import (
    LOCAL,
    Data,
    DoctorRule,
    Instance,
    Job,
    Paths,
    Phase,
    Remote,
    Settings,
    Source,
    Ssh,
    Value,
    script_text,
)


def _phase_of(plain: Mapping[str, Any], choice: str) -> Phase | None:
    """The phase; None where none was chosen."""
    if plain["name"] is None:
        if choice not in ("", "null"):
            raise UsageError(f"phase={choice}: its YAML says no phase.name, the folder in the research log")
        return None
    name = plain["name"]
    if "/" in name or name in (".", "..") or "\0" in name or name.startswith("-"):
        raise UsageError(f"phase.name={name!r} must be the name of a folder in the research log")
    return Phase(
        name=name,
        choice=choice,
        deps=tuple(plain["deps"]),
        batch_size=_at_least_one("phase.batch_size", plain["batch_size"]),
        artifacts=tuple(_artifact(a) for a in plain["artifacts"]),
        inputs=tuple(plain["inputs"]),
        data=_data(plain["data"]) if plain["data"] else None,
        source=Source(**plain["source"]) if plain["source"] else None,
        imports=tuple(plain["preflight"]["imports"]),
        stand_ins=tuple(plain["preflight"]["packages"].items()),
        builds=tuple(plain["preflight"]["builds"]),
        jobs=tuple(_frozen_job(name, job) for name, job in plain["jobs"].items()),
    )


def _data(plain: Mapping[str, str | None]) -> Data:
    command, done = plain["command"], plain["done"]
    if not command or not done:
        raise UsageError("phase.data needs both: command, and done, the file that is there afterwards")
    return Data(command, done)


def _frozen_job(name: str, plain: Mapping[str, Any]) -> Job:
    """The job of this name."""
    where = f"phase.jobs.{name}"
    if not re.fullmatch(r"[A-Za-z]\w*(-\w+)*", name):
        raise UsageError(f"{where}: a job's name is letters, digits, '_' and '-'")
    if not plain["entrypoint"]:
        raise UsageError(f"{where}.entrypoint is missing: the script to run, inside the phase's folder")
    if dashed := next((key for key in plain["args"] if key.startswith("-")), None):
        said = f"{where}.args.{dashed}: the dashes are put before it by the runner"
        raise UsageError(said, f"Write it without: {dashed.lstrip('-')}:")
    fold = (plain["fold"] or {}).get("load_key")
    return Job(
        name=name,
        entrypoint=_below_phase(f"jobs.{name}.entrypoint", plain["entrypoint"]),
        args=tuple((k, _value(f"{where}.args.{k}", v)) for k, v in plain["args"].items()),
        env=tuple((k, _environment(f"{where}.env.{k}", k, v)) for k, v in plain["env"].items()),
        fold=None if plain["fold"] is None else tuple(fold or ()),
    )


def _below_phase(key: str, path: str) -> str:
    if path.startswith("/") or ".." in Path(path).parts or not path.strip("/."):
        raise UsageError(f"phase.{key}: {path!r} must be a path inside the phase's folder")
    return path


_PATTERN = r"[*?]|\[.*\]"


def _artifact(path: str) -> str:
    """A pattern would match nothing, and what it was meant for would stay on the machine unsaid."""
    if re.search(_PATTERN, path):
        folder = "/".join(takewhile(lambda part: not re.search(_PATTERN, part), path.split("/")))
        raise UsageError(
            f"phase.artifacts: {path!r} is a pattern, and artifacts are files and folders by name",
            f"Name the folder: {folder}/" if folder else "Have them written into a folder, and name that",
        )
    return _below_phase("artifacts", path)


def _value(key: str, value: Any) -> Value:
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        return tuple(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise UsageError(f"{key}: a string, a number, true, false, null or a list of those is wanted")


def _environment(key: str, name: str, value: Any) -> str | None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise UsageError(f"{key}: {name!r} cannot be the name of an environment variable")
    if isinstance(value, list | dict):
        raise UsageError(f"{key}: a string, a number, true, false or null is wanted")
    return None if value is None else script_text(value)


def _at_least_one(key: str, number: int | None) -> int | None:
    """The number, if there is one."""
    if number is not None and number < 1:
        raise UsageError(f"{key}={number}: it must be 1 or more")
    return number


_OUTPUTS = ("text", "json", "script")
_PROVIDERS = (LOCAL, "lambda")
_MISSING = "???"
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def load(
    arguments: list[str], cwd: Path, config_dir: Path | None = None, program: str = "python -m runner"
) -> Settings:
    """From the overrides of one command line to Settings. `program` is how the runner is called."""
    folders = conf_folders(config_dir)
    added = (f"--config-dir={config_dir}",) if config_dir else ()
    typed = (*with_phase_file(arguments, folders), *added)
    with told_short(arguments):
        config = compose_config(CommandLine.of(in_full(arguments, folders)), cwd, config_dir)
        made = settings(config, cwd, folders, typed)
        refuse_idle_batch_size(config, made, arguments)
    return replace(made, program=program)


def settings(
    config: DictConfig, cwd: Path, folders: tuple[Path, ...] = (CONF,), typed: tuple[str, ...] = ()
) -> Settings:
    """The frozen form of a composed configuration. UsageError for a value that cannot be meant."""
    try:
        plain: dict[str, Any] = _whole(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise _unresolved(error) from error
    _refuse_missing(plain)
    refuse_mismatch(plain)
    chosen = _choice_of(typed)
    return Settings(
        action=plain["action"],
        phase=_phase_of(plain["phase"], chosen.get("phase", "")),
        instance=_instance(plain["instance"], chosen.get("instance")),
        paths=_paths(plain["paths"], cwd, folders),
        remote=Remote(**plain["remote"]),
        ssh=_ssh(plain["ssh"], cwd),
        base_url=_base_url(plain["cloud"]["base_url"]),
        time_scale=plain["cloud"]["time_scale"],
        generation=_generation(plain["generation"]),
        batch_size=_batch_size(plain["batch_size"], plain["phase"]["batch_size"]),
        machine=plain["machine"],
        confirm=_confirm(plain["confirm"]),
        output=_one_of("output", plain["output"], _OUTPUTS),
        command=plain["command"],
        run=plain["run"],
        lines=_at_least_one("lines", plain["lines"]),
        resume=plain["resume"],
        discard=tuple(plain["discard"]),
        wait_for_capacity_s=_duration_s(plain["wait_for_capacity"]),
        budget_usd=plain["budget_usd"],
        require_preflight=plain["require_preflight"],
        doctor_rules=tuple(_doctor_rule(name, rule) for name, rule in plain["doctor"]["rules"].items()),
        doctor_silent_s=plain["doctor"]["silent_s"],
        typed=tuple(t for t in typed if not re.match(r"(confirm|output)=", t)),
    )


def job_of(config: DictConfig, name: str) -> Job | None:
    """The job of this name alone, frozen; the values that jobs are given are checked as in `settings`."""
    try:
        node: Any = config.phase.jobs.get(name)
        declared: Any = _whole(OmegaConf.to_container(node, resolve=True)) if node is not None else None
        _generation(OmegaConf.to_container(config.generation, resolve=True))  # type: ignore[arg-type]
        _batch_size(config.batch_size, config.phase.batch_size)
    except OmegaConfBaseException as error:
        raise _unresolved(error) from error
    return None if declared is None else _frozen_job(name, declared)


def _unresolved(error: OmegaConfBaseException) -> UsageError:
    """A value that points to what is not there, and where it stands."""
    where = f"{error.full_key}: " if error.full_key else ""
    return UsageError(f"{where}the value cannot be found: {str(error).splitlines()[0]}")


def _whole(value: Any) -> Any:
    """The value with its characters whole: JSON writes one as a pair of halves, which YAML leaves as two."""
    if isinstance(value, str):
        return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), value)
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _refuse_missing(value: Any, key: str = "") -> None:
    """UsageError for OmegaConf's `???`, a value still to be given; what a job gets may say it."""
    if value == _MISSING:
        raise UsageError(f"{key}={_MISSING}: a value is wanted")
    if isinstance(value, dict) and not re.fullmatch(r"phase\.jobs\..*\.(args|env)", key):
        for name, item in value.items():
            _refuse_missing(item, f"{key}.{name}" if key else str(name))


def _choice_of(typed: tuple[str, ...]) -> dict[str, str]:
    """The group choices on a command line; a choice made by a phase's YAML is not among them."""
    pairs = (t.partition("=") for t in typed)
    return {key: text for key, _, text in pairs if key in GROUPS}


def _confirm(text: str) -> str:
    if text.lower() in ("true", "false", "ask"):
        return text.lower()
    if not DIGEST.fullmatch(text):
        raise UsageError(
            f"confirm={text}: neither false, true, ask nor a plan's digest",
            "A digest is p and 12 hex digits, as the plan's first line shows it.",
        )
    return text


def _base_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text):
        raise UsageError(
            f"cloud.base_url={text}: an address such as https://cloud.lambda.ai/api/v1 is wanted"
        )
    return text.rstrip("/")


def _one_of(key: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise UsageError(
            f"{key}={text}: there is no such {key.rpartition('.')[2]}", *choices(text, known, "Choices")
        )
    return text


def _generation(plain: Mapping[str, Any]) -> tuple[tuple[str, Value], ...]:
    """Sampling parameters that an inference engine would take."""
    wanted = {
        "temperature": ("0 or more", plain["temperature"] >= 0),
        "top_p": ("above 0 and at most 1", 0 < plain["top_p"] <= 1),
        "top_k": ("0 (all tokens) or more", plain["top_k"] >= 0),
        "n": ("1 or more", plain["n"] >= 1),
        "max_tokens": ("1 or more", plain["max_tokens"] >= 1),
    }
    for key, (what, holds) in wanted.items():
        if not holds:
            raise UsageError(f"generation.{key}={plain[key]}: it must be {what}")
    return tuple(plain.items())


def _batch_size(number: int | None, declared: int | None) -> int | None:
    """None only where the phase declares none: a job would silently run with its script's own."""
    if number is None and declared is not None:
        raise UsageError(
            f"batch_size=null: it must be 1 or more; the phase declares {declared}",
            "To let the script decide, take it out of the phase's YAML, or type phase.batch_size=null",
        )
    return _at_least_one("batch_size", number)


def refuse_idle_batch_size(config: DictConfig, made: Settings, arguments: Sequence[str]) -> None:
    """UsageError for `batch_size=` where it would change nothing of the job that is planned."""
    typed = [word for word in arguments if re.match(r"\+*batch_size=(?!null$)", word)]
    node: Any = config.phase.jobs.get(made.action) if made.phase else None
    if not typed or node is None:
        return
    raw = str(OmegaConf.to_container(node, resolve=False))
    if re.search(r"\$\{\s*batch_size\s*\}", raw) or _is_changed_by_batch_size(config, made):
        return
    takes = [job.name for job in made.phase.jobs if "batch_size" in dict(job.args)] if made.phase else []
    raise UsageError(
        f"{typed[-1]}: no argument of the job {made.action} takes it, so it would change nothing",
        *([f"Jobs that have one: {', '.join(takes)}"] if takes else []),
        f"In the YAML: phase.jobs.{made.action}.args: {{batch_size: ${{batch_size}}}}",
    )


def _is_changed_by_batch_size(config: DictConfig, made: Settings) -> bool:
    """Whether another number would make anything else, by whatever way it goes."""
    other = copy.deepcopy(config)
    other.batch_size = (made.batch_size or 1) + 1
    changed = settings(other, made.paths.cwd, made.paths.conf, made.typed)
    return _of_its_job(changed) != _of_its_job(made)


def _of_its_job(made: Settings) -> Settings:
    """The settings without the other jobs and the batch size itself."""
    jobs = tuple(job for job in made.phase.jobs if job.name == made.action) if made.phase else ()
    return replace(made, batch_size=None, phase=made.phase and replace(made.phase, jobs=jobs))


def _duration_s(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(text))
    if not match:
        raise UsageError(f"wait_for_capacity={text}: a duration such as 90s, 30m or 2h is wanted")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _paths(plain: Mapping[str, str | None], cwd: Path, folders: tuple[Path, ...]) -> Paths:
    log = absolute(plain["research_log"] or "research-log", CHECKOUT)
    venv = absolute(plain["venv"], CHECKOUT) if plain["venv"] else log / SHARED_VENV
    state = absolute(plain["state"] or ".runner", CHECKOUT)
    if ":" in str(venv):
        raise UsageError(f"paths.venv={venv}: $PATH cannot hold a folder with a colon in its name")
    if log.name.startswith("-"):
        raise UsageError(f"paths.research_log={log}: programs would read a name with a dash as an option")
    return Paths(checkout=CHECKOUT, research_log=log, state=state, venv=venv, cwd=cwd, conf=folders)


def _ssh(plain: Mapping[str, Any], cwd: Path) -> Ssh:
    config = absolute(plain["config"], cwd)
    return Ssh(
        config=config,
        is_default=config == _openssh_config(),
        port=plain["port"],
        user=plain["user"],
        identity=absolute(plain["identity"], cwd) if plain["identity"] else None,
    )


def _openssh_config() -> Path:
    """The file that ssh reads by itself: it asks the user database for the home folder, never $HOME."""
    try:
        return Path(_listed_home(Path("/etc/passwd")) or getpwuid(os.getuid()).pw_dir) / ".ssh/config"
    except KeyError:
        return Path.home() / ".ssh/config"


def _listed_home(passwd: Path) -> str | None:
    """This user's home folder from the file behind the database, which is read without a socket.

    glibc asks a daemon (nscd) over one, also where none runs, and showing a plan opens none.
    """
    try:
        fields = (line.split(":") for line in passwd.read_text(errors="surrogateescape").splitlines())
        return next((f[5] for f in fields if len(f) == 7 and f[2] == str(os.getuid())), None)
    except OSError:
        return None


def _lines(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise UsageError(f"instance.overrides.{name}: a list of requirements is wanted")
    return tuple(value)


def _instance(plain: Mapping[str, Any], choice: str | None) -> Instance:
    rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    rest["packages"] = tuple(plain["packages"].items())
    rest["overrides"] = tuple((name, _lines(name, lines)) for name, lines in plain["overrides"].items())
    _one_of("instance.provider", rest["provider"], _PROVIDERS)
    name = rest["name"]
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
        raise UsageError(f"instance.name={name!r}: letters, digits, '.', '_' and '-' only; ssh uses it")
    local = LOCAL if plain["provider"] == LOCAL else None
    return Instance(choice=choice or local or (plain["types"] or [name])[0], **rest)


def _doctor_rule(name: str, plain: Mapping[str, str]) -> DoctorRule:
    try:
        re.compile(plain["pattern"])
    except re.error as error:
        raise UsageError(f"doctor.rules.{name}.pattern: {error}") from error
    if not plain["pattern"] or not plain["remedy"]:
        raise UsageError(f"doctor.rules.{name}: a pattern and a remedy are needed")
    return DoctorRule(plain["symptom"] or name, plain["pattern"], plain["cause"], plain["remedy"])

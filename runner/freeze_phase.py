"""The phase's section of a composed configuration, frozen; a value that cannot be meant is a UsageError."""

import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.plan.settings import Data, Job, Phase, Source, Value, spelled


def phase_of(plain: Mapping[str, Any], choice: str) -> Phase | None:
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
        batch_size=at_least_one("phase.batch_size", plain["batch_size"]),
        artifacts=tuple(_artifact(a) for a in plain["artifacts"]),
        inputs=tuple(plain["inputs"]),
        data=_data(plain["data"]) if plain["data"] else None,
        source=Source(**plain["source"]) if plain["source"] else None,
        imports=tuple(plain["preflight"]["imports"]),
        stand_ins=tuple(plain["preflight"]["packages"].items()),
        builds=tuple(plain["preflight"]["builds"]),
        jobs=tuple(frozen_job(name, job) for name, job in plain["jobs"].items()),
    )


def _data(plain: Mapping[str, str | None]) -> Data:
    command, done = plain["command"], plain["done"]
    if not command or not done:
        raise UsageError("phase.data needs both: command, and done, the file that is there afterwards")
    return Data(command, done)


def frozen_job(name: str, plain: Mapping[str, Any]) -> Job:
    """The job of this name."""
    where = f"phase.jobs.{name}"
    if not re.fullmatch(r"[A-Za-z]\w*(-\w+)*", name):
        raise UsageError(f"{where}: a job's name is letters, digits, '_' and '-'")
    if not plain["entrypoint"]:
        raise UsageError(f"{where}.entrypoint is missing: the script to run, inside the phase's folder")
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


PATTERN = r"[*?]|\[.*\]"


def _artifact(path: str) -> str:
    """A pattern would match nothing, and what it was meant for would stay on the machine unsaid."""
    if re.search(PATTERN, path):
        folder = "/".join(takewhile(lambda part: not re.search(PATTERN, part), path.split("/")))
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
    return None if value is None else spelled(value)


def at_least_one(key: str, number: int | None) -> int | None:
    """The number, if there is one."""
    if number is not None and number < 1:
        raise UsageError(f"{key}={number}: it must be 1 or more")
    return number

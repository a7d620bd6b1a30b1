"""How the members of a sweep share processes: same script, environment and load key, one process."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runner.plan.settings import Job, Value


@dataclass(frozen=True)
class SweptJob:
    """One member of a sweep: its number, the overrides that make it, the job with its own values."""

    number: int
    overrides: tuple[str, ...]
    job: Job

    @property
    def load(self) -> dict[str, Value]:
        """The arguments that decide what is loaded; none for a job that is not folded."""
        return {key: value for key, value in self._given.items() if key in (self.job.fold or ())}

    @property
    def values(self) -> dict[str, Value]:
        """All other arguments."""
        return {key: value for key, value in self._given.items() if key not in (self.job.fold or ())}

    @property
    def _given(self) -> dict[str, Value]:
        return {key: value for key, value in self.job.args if value is not None}


@dataclass(frozen=True)
class Process:
    """The members that one process runs, in the order of the sweep."""

    number: int
    members: tuple[SweptJob, ...]

    @property
    def job(self) -> Job:
        """The job; what its members agree in is true of all."""
        return self.members[0].job

    @property
    def is_folded(self) -> bool:
        """Whether the script is given a file of configs rather than one config as arguments."""
        return self.job.fold is not None


def fold(members: Iterable[SweptJob]) -> tuple[Process, ...]:
    """The processes, in the order of their first members. No member is lost, repeated or overtaken."""
    shared: dict[object, list[SweptJob]] = {}
    for member in members:
        shared.setdefault(_shares(member), []).append(member)
    return tuple(Process(number, tuple(group)) for number, group in enumerate(shared.values()))


def _shares(member: SweptJob) -> object:
    """Equal for members that may share a process. `repr` keeps 1, 1.0 and true apart, as a script would."""
    job = member.job
    if job.fold is None:
        return member.number
    return (job.entrypoint, job.env, repr([(key, member.load.get(key)) for key in job.fold]))


def config_line(member: SweptJob, process: int) -> str:
    """The member as a line of configs.jsonl, in ASCII. What is null is left out, as on a command line."""
    line: dict[str, Any] = {"member": member.number, "process": process}
    line |= {"overrides": member.overrides, "load": member.load, "values": member.values}
    if member.job.env:
        line["env"] = dict(member.job.env)
    return json.dumps(line)


def member_of(line: str, declared: Job) -> SweptJob:
    """A line of configs.jsonl back as the member that it was, of the job as it is declared now."""
    read = json.loads(line)
    args = {**read["load"], **read["values"]}
    job = Job(
        name=declared.name,
        entrypoint=declared.entrypoint,
        args=tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in args.items()),
        env=tuple(read.get("env", {}).items()),
        fold=declared.fold,
    )
    return SweptJob(read["member"], tuple(read["overrides"]), job)

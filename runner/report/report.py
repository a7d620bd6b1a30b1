"""report: what the members of a sweep came to; the figures behind the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path, PurePosixPath
from typing import Any

from runner.environment.setup import needed_phase
from runner.errors import UsageError, choices
from runner.plan.fold import SweptJob
from runner.plan.settings import Job, Settings, Value
from runner.research_log.runs import METRICS, Curves, find_run, read_curves, run_names
from runner.research_log.sweep_results import CONFIGS, SAMPLES, read_configs, read_json, results_of
from runner.world.world import Asking

# What a sampling job is judged by; another job's own figures stand in where it has none of these.
_QUALITY = ("pass_at_1", "majority_vote", "pass_at_n")
_COSTS = ("samples_per_second", "generation_seconds", "load_seconds", "seconds")
_NO_FIGURES = (*_COSTS, "exit_code", "batch_size")


@dataclass(frozen=True)
class MemberReport:
    """One member: what makes it, what it measured, or what went wrong. `log` is its file of results."""

    number: int
    process: int
    overrides: tuple[str, ...]
    values: Mapping[str, Value]
    figures: Mapping[str, float]
    error: str | None = None
    log: str | None = None

    @property
    def state(self) -> str:
        """finished, failed or missing."""
        if self.figures:
            return "finished"
        return "failed" if self.error is not None else "missing"

    def document(self) -> dict[str, Any]:
        """The member as JSON."""
        return {
            "member": self.number,
            "process": self.process,
            "state": self.state,
            "overrides": list(self.overrides),
            "values": dict(self.values),
            "figures": dict(self.figures),
            "error": self.error,
            "log": self.log,
        }


@dataclass(frozen=True)
class Report:
    """A run as figures. `axes` are the arguments in which members differ, in the order they were typed."""

    phase: str
    run: str
    job: str
    folder: Path
    members: tuple[MemberReport, ...]
    axes: tuple[str, ...]
    seconds: float | None = None  # of the whole run, set-up included
    usd_per_hour: float = 0.0
    machine: str = "local"
    log: str | None = None
    job_exit_code: int | None = None
    curves: Curves = field(default_factory=dict)  # of a run that is no sweep

    @property
    def finished(self) -> tuple[MemberReport, ...]:
        """The members with figures."""
        return tuple(member for member in self.members if member.figures)

    @property
    def quality(self) -> tuple[str, ...]:
        """The figures that pictures show: the best known ones, else the first of the job's own."""
        known = [name for name in _QUALITY if any(name in m.figures for m in self.finished)]
        own = dict.fromkeys(name for m in self.finished for name in m.figures if name not in _NO_FIGURES)
        return tuple(known or list(own)[:3])

    @property
    def judge(self) -> str | None:
        """The figure that says which config won."""
        if "majority_vote" in self.quality:
            return "majority_vote"
        return self.quality[0] if self.quality else None

    @property
    def best(self) -> MemberReport | None:
        """The member with the highest of that figure; of equals the one that took the least time."""
        judge = self.judge
        rated = [m for m in self.finished if judge in m.figures]
        if not rated or judge is None:
            return None
        return max(rated, key=lambda m: (m.figures[judge], -m.figures.get("generation_seconds", 0.0)))

    @property
    def is_grid(self) -> bool:
        """Whether every combination of the axes' levels is one member."""
        levels = [len(self.levels(axis)) for axis in self.axes]
        points = {tuple(repr(m.values.get(a)) for a in self.axes) for m in self.members}
        return bool(self.axes) and prod(levels) == len(self.members) == len(points)

    def levels(self, axis: str) -> tuple[Value, ...]:
        """The values that an axis takes, in the order of the sweep."""
        return tuple({repr(m.values.get(axis)): m.values.get(axis) for m in self.members}.values())

    @property
    def load_s(self) -> float:
        """Seconds of loading: once in each process."""
        loads: dict[int, float] = {}
        for member in self.finished:
            took = member.figures.get("load_seconds", 0.0)
            loads[member.process] = max(loads.get(member.process, 0.0), took)
        return sum(loads.values())

    @property
    def generation_s(self) -> float:
        """Seconds of the members' own work, loading apart."""
        return sum(seconds_of(member) for member in self.finished)

    @property
    def usd(self) -> float:
        """What the machine cost while the run lasted."""
        return self.usd_per_hour * (self.seconds or 0.0) / 3600

    def document(self) -> dict[str, Any]:
        """As runner.report/1; what is written to disk is added by whoever writes it."""
        return {
            "format": "runner.report/1",
            "phase": self.phase,
            "run": self.run,
            "job": self.job,
            "machine": self.machine,
            "axes": {axis: list(self.levels(axis)) for axis in self.axes},
            "best": self.best.number if self.best else None,
            "judged_by": self.judge,
            "load_seconds": round(self.load_s, 3),
            "generation_seconds": round(self.generation_s, 3),
            "run_seconds": self.seconds,
            "usd": round(self.usd, 4),
            "exit_code": self.job_exit_code,
            "log": self.log,
            "curves": {name: [list(point) for point in points] for name, points in self.curves.items()},
            "members": [member.document() for member in self.members],
        }


def seconds_of(member: MemberReport) -> float:
    """What the member took, loading apart."""
    return member.figures.get("generation_seconds", member.figures.get("seconds", 0.0))


def margin(member: MemberReport, figure: str) -> float | None:
    """Half of the 95 % interval of a share, from the number of nodes it was counted on."""
    share, num = member.figures[figure], member.figures.get("num_nodes")
    if not num or not 0 <= share <= 1:
        return None
    return 1.96 * sqrt(share * (1 - share) / num)


def report(settings: Settings) -> Asking[Report]:
    """The figures of the run that is meant: by default the newest sweep, else the newest run."""
    yield from ()
    phase = needed_phase(settings)
    folder = settings.paths.research_log / phase.name
    run = _meant_run(folder, settings.run)
    origin = PurePosixPath(results_of(folder / "runs" / run) or run).name
    job = phase.job(origin.partition("-")[2]) or Job(origin.partition("-")[2], "")
    configs = read_configs(folder / "runs" / origin / CONFIGS, job)
    plan = read_json(folder / "runs" / run / "plan.json") or {}
    result = read_json(folder / "runs" / run / "result.json") or {}
    members = tuple(_member_report(folder / SAMPLES / origin, config, process) for process, config in configs)
    log = folder / "runs" / run / "log"
    return Report(
        phase=phase.name,
        run=run,
        job=job.name,
        folder=folder / "runs" / run / "report",
        members=members,
        axes=axes_of([config for _, config in configs]),
        seconds=_run_seconds(result),
        usd_per_hour=float(plan.get("instance", {}).get("usd_per_hour", 0.0)),
        machine=str(plan.get("instance", {}).get("name", "unknown")),
        log=str(log) if log.exists() else None,
        job_exit_code=result.get("exit_code"),
        curves={} if configs or run != _newest_of(folder, job.name) else read_curves(folder / METRICS),
    )


def _newest_of(folder: Path, job: str) -> str | None:
    """The newest run of a job: the metrics of a phase end with what it measured."""
    return next((name for name in reversed(run_names(folder)) if name.partition("-")[2] == job), None)


def _meant_run(folder: Path, wanted: str | None) -> str:
    """The run by name or number; without one the newest sweep, else the newest run."""
    names = run_names(folder)
    if wanted is not None:
        if found := find_run(folder, wanted):
            return found
        raise UsageError(f"run={wanted}: {folder.name} has no such run", *choices(wanted, names, "Runs"))
    sweeps = [name for name in names if (folder / "runs" / name / CONFIGS).exists()]
    if not names:
        raise UsageError(f"{folder.name} has no run yet, so there is nothing to report")
    return (sweeps or names)[-1]


def _member_report(results: Path, config: SweptJob, process: int) -> MemberReport:
    """What a member left, next to what makes it."""
    told = read_json(results / f"{config.number}.json") or {}
    failed = read_json(results / f"{config.number}.error.json") if not told else None
    log = results / f"{config.number}.jsonl"
    return MemberReport(
        number=config.number,
        process=process,
        overrides=config.overrides,
        values={**config.load, **config.values},
        figures={k: v for k, v in told.items() if isinstance(v, int | float) and not isinstance(v, bool)},
        error=str(failed.get("error") or f"exit code {failed.get('exit_code')}") if failed else None,
        log=str(log) if log.exists() else None,
    )


def axes_of(configs: Sequence[SweptJob]) -> tuple[str, ...]:
    """The arguments in which members differ: those that were typed first, in their order, then the others."""
    given = [{**config.load, **config.values} for config in configs]
    keys = dict.fromkeys(key for values in given for key in values)
    differing = [key for key in keys if len({repr(values.get(key)) for values in given}) > 1]
    typed = [o.partition("=")[0].rpartition(".")[2] for config in configs[:1] for o in config.overrides]
    return tuple(sorted(differing, key=lambda key: typed.index(key) if key in typed else len(typed)))


def _run_seconds(result: Mapping[str, Any]) -> float | None:
    """Seconds of all steps."""
    steps = result.get("steps")
    return round(sum(float(step["seconds"]) for step in steps), 3) if steps else None

"""What the members of a sweep have left in the research log: their configs, results and errors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.plan.fold import SweptJob, member_of
from runner.plan.plan import FailedMember, MembersResult
from runner.plan.settings import Job

CONFIGS = "configs.jsonl"  # in a run's folder: a line a member
SAMPLES = "samples"  # below the phase: samples/<run>/<member>.json


@dataclass(frozen=True)
class EarlierCosts:
    """What a member and a load took in an earlier run, on average."""

    run: str
    machine: str
    load_s: float
    member_s: float


def read_configs(path: Path, declared: Job) -> tuple[tuple[int, SweptJob], ...]:
    """(process, member) for every line of a configs.jsonl; none without the file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ()
    return tuple((json.loads(line)["process"], member_of(line, declared)) for line in lines if line.strip())


def unfinished(results: Path, members: Sequence[SweptJob]) -> tuple[SweptJob, ...]:
    """Those without a result; a member that failed is among them."""
    return tuple(member for member in members if read_json(results / f"{member.number}.json") is None)


def members_result(results: Path, numbers: Sequence[int]) -> MembersResult:
    """What these members have left; one with a result has not failed, whatever an earlier attempt left."""
    finished = [number for number in numbers if read_json(results / f"{number}.json") is not None]
    failed = []
    for number in sorted(set(numbers) - set(finished)):
        said = read_json(results / f"{number}.error.json")
        if said is not None:
            code = int(said.get("exit_code", 1))
            error = str(said.get("error") or f"exit code {code}")
            failed.append(FailedMember(number, error, code, bool(said.get("out_of_memory"))))
    return MembersResult(len(finished), tuple(failed))


def results_of(run_folder: Path) -> str | None:
    """The folder, below the phase, in which the members of this run leave their results, as its plan says."""
    plan = read_json(run_folder / "plan.json")
    return plan.get("results") if plan else None


def earlier_costs(phase_folder: Path, job: str) -> EarlierCosts | None:
    """From the newest run of this job whose members tell how long they took."""
    for folder in sorted(phase_folder.glob(f"{SAMPLES}/*-{job}"), reverse=True):
        told = [read_json(path) for path in folder.glob("[0-9]*.json") if "error" not in path.name]
        seconds = [float(t.get("generation_seconds", t.get("seconds", 0))) for t in told if t]
        loads = [float(t.get("load_seconds", 0)) for t in told if t]
        if seconds:
            plan = read_json(phase_folder / "runs" / folder.name / "plan.json") or {}
            machine = str(plan.get("instance", {}).get("name", "another machine"))
            return EarlierCosts(folder.name, machine, max(loads), sum(seconds) / len(seconds))
    return None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object on disk; None where there is none, whole."""
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None

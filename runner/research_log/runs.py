"""The runs of a phase: their folders, their states, what they measured, and what their files say of them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

_RUN_FOLDER = re.compile(r"(\d+)-(.+)")


# ------------------------------------------------------------------------------------ runs


@dataclass(frozen=True)
class RunPaths:
    """The only place that knows the file names of a run. `folder` is relative to the root."""

    folder: PurePosixPath

    @staticmethod
    def of(research_log: str, phase: str, run: str) -> "RunPaths":
        """The run's paths below the root, the same here and on a machine."""
        return RunPaths(PurePosixPath(research_log, phase, "runs", run))

    @property
    def log(self) -> PurePosixPath:
        """Everything the job printed."""
        return self.folder / "log"

    @property
    def plan(self) -> PurePosixPath:
        """The plan as it was consented to."""
        return self.folder / "plan.json"

    @property
    def result(self) -> PurePosixPath:
        """What came of it; there once the run is over."""
        return self.folder / "result.json"

    @property
    def pid(self) -> PurePosixPath:
        """The process (and group) of the running job."""
        return self.folder / "pid"

    @property
    def exit_code(self) -> PurePosixPath:
        """The job's own exit code, written last."""
        return self.folder / "exit_code"

    @property
    def newest_log(self) -> PurePosixPath:
        """The link `run.log` of the phase."""
        return self.folder.parent.parent / "run.log"


def run_names(phase_folder: Path) -> tuple[str, ...]:
    """The run folders of a phase, oldest first."""
    runs = phase_folder / "runs"
    if not runs.is_dir():
        return ()
    found = [
        (int(match[1]), path.name) for path in runs.iterdir() if (match := _RUN_FOLDER.fullmatch(path.name))
    ]
    return tuple(name for _, name in sorted(found))


def next_run(phase_folder: Path, job: str, wanted: str | None = None) -> str:
    """`0004-train`: one more than the highest number there is, or a higher one that is wanted."""
    names = run_names(phase_folder)
    number = int(names[-1].split("-")[0]) + 1 if names else 1
    if wanted and wanted.isdigit():
        number = max(number, int(wanted))
    return f"{number:04d}-{job}"


def find_run(phase_folder: Path, wanted: str | None) -> str | None:
    """The run meant by 3, 0003 or 0003-train; the newest for None."""
    names = run_names(phase_folder)
    if wanted is None:
        return names[-1] if names else None
    if wanted.isdigit():
        return next((name for name in names if int(name.split("-")[0]) == int(wanted)), None)
    return wanted if wanted in names else None


class RunState(StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"  # started, gone, and no exit code: a reboot, the kernel's OOM killer, kill -9
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the machine does not answer


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, and its exit code once it ended.

    `is_anothers`: it is absent, and a run that another plan started has its name on the machine.
    """

    state: RunState
    exit_code: int | None = None
    is_anothers: bool = False


def token_in(folder: Path) -> str:
    """The token with which the plan in a run's folder here asked for its start; empty where none is known."""
    token = plan_in(folder).get("token", "")
    return token if isinstance(token, str) else ""


METRICS = "metrics.jsonl"
_NOT_MEASURED = ("step", "seconds", "seed", "epoch")
RATES = ("_per_second", "_per_s", "_per_sec", "/s")  # how the name of a throughput ends

Curves = dict[str, tuple[tuple[float, float], ...]]


def read_curves(path: Path) -> Curves:
    """Every number that the newest training logged at two steps or more, as (step, value) in order."""
    lines = [line for line in read_lines(path) if _is_number(line.get("step"))]
    newest = lines[-1].get("training") if lines else None
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if line.get("training") == newest and name not in _NOT_MEASURED and _is_number(value):
                found.setdefault(name, []).append((float(line["step"]), float(value)))
    return {name: tuple(points) for name, points in found.items() if len({x for x, _ in points}) > 1}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, those that are whole."""
    try:
        return whole_lines(path.read_text(errors="replace").splitlines())
    except OSError:
        return []


def whole_lines(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON objects among these lines."""
    found = []
    for line in lines:
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict):
            found.append(read)
    return found


def _is_number(value: object) -> bool:
    """Whether a value has a place on a scale."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Progress:
    """How far a training is: its last step, what it measured last, and how fast it is, each by its name."""

    step: float
    metrics: tuple[tuple[str, float], ...] = ()
    throughput: tuple[tuple[str, float], ...] = ()


def progress_of(lines: Sequence[dict[str, Any]]) -> Progress | None:
    """From the last lines of a metrics file; None where nothing was measured yet.

    What tells no throughput itself has that of its steps between the last two lines.
    """
    newest = [line for line in lines if line.get("training") == lines[-1].get("training")]
    steps = [line for line in newest if _is_number(line.get("step")) and line.get("event") != "start"]
    if not steps:
        return None
    last: dict[str, float] = {}
    for line in steps:
        last |= {name: value for name, value in line.items() if _is_number(value)}
    named = [(name, value) for name, value in last.items() if name not in _NOT_MEASURED]
    rates = tuple((name, value) for name, value in named if name.endswith(RATES))
    metrics = tuple((name, value) for name, value in named if not name.endswith(RATES))
    return Progress(last["step"], metrics, rates or _steps_per_second(steps))


def _steps_per_second(lines: Sequence[dict[str, Any]]) -> tuple[tuple[str, float], ...]:
    """Between the last two lines that are some steps and some seconds apart."""
    timed = [(line["step"], line["seconds"]) for line in lines if _is_number(line.get("seconds"))]
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(timed) if b[0] > a[0] and b[1] > a[1]]
    return (("steps_per_second", round(rates[-1], 3)),) if rates else ()


_TAIL_BYTES = 1 << 16


def tail_of(path: Path) -> str:
    """The end of a text file, a progress bar's redrawn lines as lines; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").replace("\r", "\n")
    except OSError:
        return ""


def plan_in(folder: Path) -> dict[str, object]:
    """The plan that a run was started from; empty where it cannot be read."""
    try:
        plan = json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


@dataclass(frozen=True)
class FailedStep:
    """The step that kept a run's job from starting: how it ended, and its last words."""

    name: str
    exit_code: int
    last_lines: tuple[str, ...]


def failed_before_start(folder: Path) -> FailedStep | None:
    """Why a run has no log; None where its job was reached, or where nobody knows."""
    try:
        result = json.loads((folder / "result.json").read_text())
        step, said = result["steps"][-1], result.get("last_lines", ())
        failed = FailedStep(str(step["name"]), int(step["exit_code"]), tuple(map(str, said)))
        return None if result["log"] or not failed.exit_code else failed
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def was_started(folder: Path) -> bool:
    """Whether the run's machine may know of it: False only where a step before its start was the last."""
    failed = failed_before_start(folder)
    if failed is None:
        return True
    try:
        steps = json.loads((folder / "result.json").read_text())["steps"]
        return any(step["name"] == "start" for step in steps)
    except (OSError, ValueError, LookupError, TypeError):
        return True


def exit_code_in(folder: Path) -> int | None:
    """The job's exit code as it is known here, None before the run ended."""
    try:
        return int((folder / "exit_code").read_text())
    except (OSError, ValueError):
        return None

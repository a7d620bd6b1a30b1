"""What a job measured while it ran: the lines of its metrics.jsonl as curves over steps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
NOT_MEASURED = ("step", "seconds", "seed", "epoch")
RATES = ("_per_second", "_per_s", "_per_sec", "/s")  # how the name of a throughput ends

Curves = dict[str, tuple[tuple[float, float], ...]]


def read_curves(path: Path) -> Curves:
    """Every number that the newest training logged at two steps or more, as (step, value) in order."""
    lines = [line for line in read_lines(path) if is_number(line.get("step"))]
    newest = lines[-1].get("training") if lines else None
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if line.get("training") == newest and name not in NOT_MEASURED and is_number(value):
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


def is_number(value: object) -> bool:
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
    steps = [line for line in newest if is_number(line.get("step")) and line.get("event") != "start"]
    if not steps:
        return None
    last: dict[str, float] = {}
    for line in steps:
        last |= {name: value for name, value in line.items() if is_number(value)}
    named = [(name, value) for name, value in last.items() if name not in NOT_MEASURED]
    rates = tuple((name, value) for name, value in named if name.endswith(RATES))
    metrics = tuple((name, value) for name, value in named if not name.endswith(RATES))
    return Progress(last["step"], metrics, rates or steps_per_second(steps))


def steps_per_second(lines: Sequence[dict[str, Any]]) -> tuple[tuple[str, float], ...]:
    """Between the last two lines that are some steps and some seconds apart."""
    timed = [(line["step"], line["seconds"]) for line in lines if is_number(line.get("seconds"))]
    rates = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(timed) if b[0] > a[0] and b[1] > a[1]]
    return (("steps_per_second", round(rates[-1], 3)),) if rates else ()

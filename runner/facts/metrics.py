"""What a job measured while it ran: the lines of its metrics.jsonl as curves over steps."""

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
NOT_MEASURED = ("step", "seconds", "seed", "epoch")

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
        text = path.read_text(errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
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

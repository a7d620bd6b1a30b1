"""How a run and its machine are doing, as far as their own words tell."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from runner.facts.fact import Fact, Result
from runner.facts.run import STATE, RunState
from runner.plan.command import Command, home_or_path, quote, spell
from runner.plan.route import Route

TAIL_BYTES = 1 << 16

# Runs on the machine: a line for each thing that can be seen there.
HEALTH = """\
cd {root} 2>/dev/null || exit 0; run={run}; token={token}
echo "state $(
{state}
)"
[ ! -e "$run"/log ] || echo "silent $(($(date +%s) - $(stat -c %Y "$run"/log)))"
echo "disk $(df -P . | tail -n 1)"
nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null | sed "s/^/gpu /"
killed="out of memory: killed process"
{{ dmesg || sudo -n dmesg; }} 2>/dev/null | grep -i "$killed" | tail -n 1 | sed "s/^/oom /\""""


@dataclass(frozen=True)
class Seen:
    """What a machine says of a run on it. `gpu_percent` is of its busiest GPU, None without one."""

    state: RunState = RunState.UNKNOWN
    exit_code: int | None = None
    silent_s: int | None = None
    disk_percent: int | None = None
    disk_line: str = ""
    gpu_percent: int | None = None
    oom_line: str = ""


def ask_health(route: Route, root: str, run: str, token: str = "") -> Fact[Seen | None]:
    """What the machine says of the run in the folder `run`; None when it does not answer.

    `token`: which plan started it; a run of that name that another plan started is not meant.
    """
    body = HEALTH.format(root=spell(home_or_path(root)), run=quote(run), token=token, state=STATE)
    return Fact(route.ask(Command(body)), read_health)


def read_health(result: Result) -> Seen | None:
    """The lines of HEALTH."""
    if result.exit_code == 255:
        return None
    told = [line.partition(" ") for line in result.stdout.decode(errors="replace").splitlines()]
    last = {word: rest for word, _, rest in told}
    state = last.get("state", "unknown").split() or ["unknown"]
    percent = re.search(r"(\d+)%", last.get("disk", ""))
    gpus = [int(rest) for word, _, rest in told if word == "gpu" and rest.strip().isdigit()]
    return Seen(
        state=RunState(state[0]) if state[0] in set(RunState) else RunState.UNKNOWN,
        exit_code=int(state[1]) if len(state) > 1 and state[1].isdigit() else None,
        silent_s=int(last["silent"]) if last.get("silent", "").isdigit() else None,
        disk_percent=int(percent[1]) if percent else None,
        disk_line=" ".join(last.get("disk", "").split()),
        gpu_percent=max(gpus, default=None),
        oom_line=last.get("oom", ""),
    )


def tail_of(path: Path) -> str:
    """The end of a text file, a progress bar's redrawn lines as lines; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
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

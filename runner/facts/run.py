"""What became of a run: the questions to a machine, and how their answers read."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runner.facts.fact import Result
from runner.plan.command import quote


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


NO_RUN = 66  # the exit code of what finds no run of ours where it should be

# Where `$run` is the run's folder, and `$token` names the plan whose run is meant; any plan's without it.
# Another laptop, or a fresh clone, may have a run of the same name.
ANOTHERS = '[ -n "${token-}" ] && [ -e "$run"/token ] && [ "$(cat "$run"/token)" != "$token" ]'
STATE = f"""\
if {ANOTHERS}; then echo absent anothers
elif read -r code 2>/dev/null <"$run"/exit_code; then echo "ended $code"
elif [ ! -e "$run"/token ]; then echo absent
elif flock -n -s "$run"/lock true; then
  if read -r code 2>/dev/null <"$run"/exit_code; then echo "ended $code"; else echo lost; fi
else echo running; fi"""


def read_state(result: Result) -> RunStatus:
    """`ended 137`, `running`, `lost`, `absent` or `absent anothers`; unknown when ssh itself failed."""
    said = result.stdout.decode(errors="replace").split()
    if result.exit_code == 255 or not said:
        return RunStatus(RunState.ABSENT if result.exit_code == NO_RUN else RunState.UNKNOWN)
    code = next((int(word) for word in said[1:] if word.isdigit()), None)
    return RunStatus(RunState(said[0]), code, is_anothers="anothers" in said)


# The head of what is asked of a machine about a run: which is meant, and which plan's.
NAMED = "run={run}; token={token}"
TOKEN = re.compile(NAMED.partition("{run}")[2].format(token="([0-9a-f]{12})") + "\n")


def named(run: object, token: str) -> str:
    """`$run` and `$token` for the texts above; `token_in` reads them again."""
    return NAMED.format(run=quote(str(run)), token=token)


def token_in(folder: Path) -> str:
    """The token with which the plan in a run's folder here asked for its start; empty where none is known."""
    try:
        steps = json.loads((folder / "plan.json").read_text())["steps"]
        started = next(step["command"] for step in steps if step["name"] == "start")
        return match[1] if (match := TOKEN.search(started)) else ""
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return ""

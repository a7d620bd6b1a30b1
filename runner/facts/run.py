"""What became of a run: the questions to a machine, and how their answers read."""

from dataclasses import dataclass
from enum import StrEnum

from runner.facts.fact import Result


class RunState(StrEnum):
    """Where a run is in its life."""

    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"  # started, gone, and no exit code: a reboot, the kernel's OOM killer, kill -9
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the machine does not answer


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, and its exit code once it ended."""

    state: RunState
    exit_code: int | None = None


# Where `$run` is the run's folder.
STATE = """\
if read -r code 2>/dev/null <"$run"/exit_code; then echo "ended $code"
elif [ ! -e "$run"/token ]; then echo absent
elif flock -n -s "$run"/lock true; then echo lost
else echo running; fi"""


def read_state(result: Result) -> RunStatus:
    """`ended 137`, `running`, `lost` or `absent`; unknown when ssh itself failed."""
    said = result.stdout.decode(errors="replace").split()
    if result.exit_code == 255 or not said:
        return RunStatus(RunState.ABSENT if result.exit_code == 1 else RunState.UNKNOWN)
    return RunStatus(RunState(said[0]), int(said[1]) if len(said) > 1 else None)

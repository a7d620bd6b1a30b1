"""The executor for this machine: the job in the foreground, its log kept by tee."""

from pathlib import Path

from runner.executors.base import Submission, opened, recorded, written
from runner.facts.fact import Fact, Result
from runner.facts.research_log import RunPaths
from runner.facts.run import RunState, RunStatus
from runner.plan.command import Command, quote, sh
from runner.plan.plan import Effect, Step

# Shows the log as it grows. Whether the run is over is looked at before the size of the log.
FOLLOW = """\
at=0
while :; do
  if [ -e "$run"/exit_code ]; then over=1
  elif kill -0 "$(cat "$run"/pid 2>/dev/null)" 2>/dev/null; then over=0; else over=1; fi
  size=$(($(wc -c <"$run"/log)))
  if [ $size -gt $at ]; then tail -c +$((at+1)) "$run"/log | head -c $((size-at)); at=$size
  elif [ $over = 1 ]; then break; else sleep 0.2; fi
done
[ -e "$run"/exit_code ] || { echo "lost: no exit code was left (kill -9, or a restart)" >&2; exit 137; }
exit $(cat "$run"/exit_code)"""


class Local:
    """Jobs run in `root` under the shared environment `venv`; both absolute."""

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.venv = venv if not venv.is_relative_to(root) else venv.relative_to(root)

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """The run's files, then one step that lasts as long as the job and ends with its exit code."""
        paths = submission.paths
        job = recorded(submission.command, self._activated(submission))
        command = (opened(submission) & job).within(self.root)
        log = str(self.root / paths.log)
        return (
            *written(self.root, submission),
            Step(
                "start",
                Command(command.text, log=log),
                reason="here; the log is kept on disk",
                carries_on=True,
            ),
        )

    def _activated(self, submission: Submission) -> Command:
        activate = sh("source", f"{self.venv}/bin/activate")
        if not submission.is_adhoc:
            return activate
        missing = sh("test", "!", "-e", f"{self.venv}/bin/activate")
        return Command(f"{{ {missing.text} || {activate.text}; }}")

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """From the exit code on disk, else from the process."""
        code, pid = sh(self.root / paths.exit_code).text, sh(self.root / paths.pid).text
        alive = f'kill -0 "$(cat {pid} 2>/dev/null)" 2>/dev/null && echo running'
        ask = Command(f"cat {code} 2>/dev/null || {{ {alive}; }}")
        return Fact(ask, lambda result: read_state(result, (self.root / paths.folder).is_dir()))

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """From the log on disk."""
        if lines:
            return (Step("log", sh("tail", "-n", lines, self.root / paths.log), effect=Effect.READ),)
        command = Command(f"(run={quote(str(self.root / paths.folder))}\n{FOLLOW})")
        return (Step("follow", command, effect=Effect.READ, carries_on=True),)

    def stop(self, paths: RunPaths) -> Step:
        """TERM to the job, KILL after ten seconds."""
        pid = sh(self.root / paths.pid).text
        text = (
            f'pid=$(cat {pid}) && {{ pkill -TERM -P "$pid"; kill -TERM "$pid"; }} && '
            '{ for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || exit 0; sleep 0.1; done; '
            'kill -KILL "$pid"; }'
        )
        return Step("stop", Command(text), reason="TERM, and KILL after 10 s")


def read_state(result: Result, exists: bool) -> RunStatus:
    """`137` → ended, `running` → running, nothing → lost, or absent where there is no folder."""
    said = result.stdout.decode().strip()
    if said == "running":
        return RunStatus(RunState.RUNNING)
    if said.isdigit():
        return RunStatus(RunState.ENDED, int(said))
    return RunStatus(RunState.LOST if exists else RunState.ABSENT)

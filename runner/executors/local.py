"""The executor for this machine: the job in the foreground, its log kept by tee."""

from pathlib import Path

from runner.executors.base import FREE, STOP, Submission, claim_folder, logged, write_file
from runner.plan.command import Command, quote, sh
from runner.plan.plan import Effect, Step
from runner.research_log.runs import RunPaths, RunStatus, read_state
from runner.world.world import Fact

_STATE = """\
is_held=; free || is_held=yes
if read -r code 2>/dev/null <"$run"/exit_code; then echo "ended $code"
elif [ ! -d "$run" ]; then echo absent
elif [ -n "$is_held" ]; then echo running
else echo lost; fi"""

# Shows the log as it grows. Whether the run is over is looked at before the size of the log.
_FOLLOW = """\
at=0
while :; do
  if [ -e "$run"/exit_code ]; then over=1
  elif free; then over=1; else over=0; fi
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
        job = logged(submission.command, self._activated(submission))
        command = (claim_folder(submission) & job).within(self.root)
        log = str(self.root / paths.log)
        return (
            *write_file(self.root, submission),
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
        """From the exit code on disk, else from the lock."""
        return Fact(self._at_run(paths, _STATE), read_state)

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """From the log on disk."""
        if lines:
            return (Step("log", sh("tail", "-n", lines, self.root / paths.log), effect=Effect.READ),)
        command = self._at_run(paths, _FOLLOW)
        return (Step("follow", command, effect=Effect.READ, carries_on=True),)

    def stop(self, paths: RunPaths) -> Step:
        """TERM to the run's processes, KILL after ten seconds."""
        return Step("stop", self._at_run(paths, f"by=pgid\n{STOP}"), reason="TERM, and KILL after 10 s")

    def _at_run(self, paths: RunPaths, body: str) -> Command:
        return Command(f"(run={quote(str(self.root / paths.folder))}\n{FREE}\n{body})")

"""The executor for this machine: the job in the foreground, its log kept by tee."""

from pathlib import Path

from runner.executors.base import Submission, opened, recorded, written
from runner.facts.fact import Fact, Result
from runner.facts.research_log import RunPaths
from runner.facts.run import RunState, RunStatus
from runner.plan.command import Command, sh
from runner.plan.plan import Step


class Local:
    """Jobs run in `root` under the shared environment `venv`; both absolute."""

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.venv = venv if not venv.is_relative_to(root) else venv.relative_to(root)

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """The run's files, then one step that lasts as long as the job and ends with its exit code."""
        paths = submission.paths
        job = recorded(submission.command, sh("source", f"{self.venv}/bin/activate"))
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

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """From the exit code on disk, else from the process."""
        code, pid = sh(self.root / paths.exit_code).text, sh(self.root / paths.pid).text
        alive = f'kill -0 "$(cat {pid} 2>/dev/null)" 2>/dev/null && echo running'
        ask = Command(f"cat {code} 2>/dev/null || {{ {alive}; }}")
        return Fact(ask, lambda result: read_state(result, (self.root / paths.folder).is_dir()))

    def logs(self, paths: RunPaths, lines: int | None) -> Command:
        """`tail` of the log on disk."""
        log = self.root / paths.log
        return sh("tail", "-n", lines, log) if lines else sh("tail", "-n", "+1", log)

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

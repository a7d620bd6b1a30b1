"""The executor for this machine: the shim stays with the job, in the foreground."""

import sys
from pathlib import Path

from runner.executors.base import Submission, state_in, write_file
from runner.plan.command import SHIM, Command, sh
from runner.plan.plan import Effect, Step
from runner.plan.tools import Here
from runner.research_log.runs import RunPaths, RunStatus
from runner.world.world import Fact


class Local:
    """Jobs run in the root of `here` under the shared environment `venv`, which is absolute."""

    def __init__(self, here: Here, venv: Path) -> None:
        self.here = here
        self.root = here.root
        self.venv = here.named(venv)

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """The run's files, then one step that lasts as long as the job and ends with its exit code."""
        adhoc = ("--adhoc",) if submission.is_adhoc else ()
        words = ("run", submission.paths.folder, "--token", submission.token, "--venv", self.venv, *adhoc)
        run = self.here.ask_shim(*map(str, words), "--")
        command = Command(f"{run.text} {submission.command.text}").within(self.root)
        return (
            *write_file(self.root, submission),
            Step(
                "start",
                Command(command.text, log=str(self.root / submission.paths.log)),
                reason="here; the log is kept on disk",
                carries_on=True,
                tools=(self.here.shim,),
            ),
        )

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """From the exit code on disk, else from the lock."""
        return Fact(sh(sys.executable, SHIM, "--root", self.root, "state", paths.folder), state_in)

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """From the log on disk."""
        if lines:
            return (Step("log", sh("tail", "-n", lines, self.root / paths.log), effect=Effect.READ),)
        show = self.here.ask_shim("show", str(paths.folder)).within(self.root)
        return (Step("follow", show, effect=Effect.READ, carries_on=True, tools=(self.here.shim,)),)

    def stop(self, paths: RunPaths) -> Step:
        """TERM to the run's processes, KILL after ten seconds."""
        stop = self.here.ask_shim("stop", str(paths.folder), "--plain").within(self.root)
        return Step("stop", stop, reason="TERM, and KILL after 10 s", tools=(self.here.shim,))

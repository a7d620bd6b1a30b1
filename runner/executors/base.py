"""What an executor is: four pure answers about a job's run; nothing here touches the world."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from runner.plan.command import Command, sh
from runner.plan.plan import Step, WriteFile
from runner.plan.settings import Job, Value, script_text
from runner.research_log.runs import RunPaths, RunState, RunStatus
from runner.world.world import Fact, Result, documents_of


@dataclass(frozen=True)
class RunFile:
    """A text file of the run's folder that the job reads; its lines are part of the plan."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """A job on its way to a run: the script as a command from the root, and where it leaves its traces."""

    command: Command
    paths: RunPaths
    files: tuple[RunFile, ...] = ()
    moves_old_log: bool = False  # run.log is a file from before the runner, to be kept
    code: str = ""  # the digest of the phase's code
    secrets: tuple[str, ...] = ()  # variables of the caller that the job gets by name
    artifacts: tuple[str, ...] = ()  # what has to come home
    is_adhoc: bool = False  # a command of the person: it runs also where there is no environment yet

    @property
    def token(self) -> str:
        """Which plan starts the run: the same for the same run, code, command and files.

        It is not the plan's digest, which covers the very line that names it.
        """
        named = [str(self.paths.folder), self.code, self.command.text]
        named += [line for file in self.files for line in (file.name, *file.lines)]
        return sha256("\0".join(named).encode(errors="surrogateescape")).hexdigest()[:12]


class Executor(Protocol):
    """How a job starts, is watched, is read and is stopped."""

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """The steps that start the job and stay until it ended."""

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """The question where the run is."""

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """Show the run's log: its last lines, or all of it until the run ends, with the job's exit code."""

    def stop(self, paths: RunPaths) -> Step:
        """End the run: TERM, then KILL for what ignores it."""


def job_command(job: Job, script: str) -> Command:
    """`python script --key=value …`, behind `env NAME=value …` where the job sets variables."""
    env = [f"{name}={value}" for name, value in job.env if value is not None]
    words = [word for key, value in job.args for word in _argument(key, value)]
    return sh(*(("env", *env) if env else ()), "python", script, *words)


def _argument(key: str, value: Value) -> tuple[str, ...]:
    """The words of one argument: `--key=value`, `--key v w` for a list, none for null."""
    if value is None:
        return ()
    if isinstance(value, tuple):
        return (f"--{key}", *map(script_text, value))
    return (f"--{key}={script_text(value)}",)


def write_file(root: Path, submission: Submission) -> tuple[Step, ...]:
    """The steps that write the run's files here; none of them is there yet."""
    folder = root / submission.paths.folder
    files = [
        WriteFile(str(folder / f.name), "".join(f"{line}\n" for line in f.lines)) for f in submission.files
    ]
    return tuple(Step("configs", file) for file in files)


def state_in(result: Result) -> RunStatus:
    """The shim's answer about a run; unknown where nobody answered the question."""
    documents = documents_of(result)
    if not documents:
        return RunStatus(RunState.UNKNOWN)
    told = documents[-1]
    return RunStatus(RunState(told["state"]), told.get("exit_code"), is_anothers=bool(told.get("anothers")))

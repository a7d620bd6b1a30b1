"""A job of a phase as a plan, and its run afterwards: one command more, its log, its end."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from runner.environment.setup import needed_phase, setup_step
from runner.errors import NeverStarted, Unreachable, UsageError, choices
from runner.executors.base import Executor, RunFile, Submission, job_command
from runner.executors.local import Local
from runner.plan.command import Command, sh
from runner.plan.next_command import MACHINE, line_of, spell_next
from runner.plan.plan import Effect, Member, Plan, Revision, Step, Target, target_of
from runner.plan.settings import LOCAL, Job, Phase, Settings, Value, script_text
from runner.plan.tools import here_of
from runner.research_log.code import Code, ask_revision, code_of
from runner.research_log.phases import phase_files
from runner.research_log.runs import (
    RunPaths,
    RunState,
    RunStatus,
    failed_before_start,
    find_run,
    next_run,
    read_lines,
    run_names,
)
from runner.research_log.sweep_results import CONFIGS, read_json
from runner.world.world import Asking


def _executor_of(settings: Settings) -> Executor:
    """How jobs run on that machine."""
    if settings.instance.is_local:
        return Local(here_of(settings), settings.paths.venv)
    from runner.executors.ssh import Ssh, remote_of

    return Ssh(remote_of(settings), settings.remote.venv)


# What a preflight depends on; the values of a job or a sweep are not among it.
_OF_PREFLIGHT = re.compile(
    rf"({MACHINE.pattern}|phase|\+?phase\.(deps|source|preflight)[\w.-]*)=.*",
    re.DOTALL,
)


def _require_preflight(plan: Plan, settings: Settings, phase: Phase) -> Plan:
    """The job's plan with a note when no preflight passed; refused when one is required."""
    if settings.instance.is_local and not settings.require_preflight:
        return plan
    missing = _missing_preflight(settings, phase)
    if missing is None:
        return plan
    if settings.require_preflight:
        return replace(plan, refused=True, reason=missing)
    return replace(plan, notes=(*plan.notes, missing))


def _missing_preflight(settings: Settings, phase: Phase) -> str | None:
    """What to type first, when nothing says that these dependencies work on a machine that costs money."""
    from runner.environment.passes import find_pass, preflight_input

    subject = preflight_input(settings, phase)
    if (subject.is_empty and phase.source is None) or find_pass(settings, phase, subject):
        return None
    words = [w for w in settings.typed if _OF_PREFLIGHT.fullmatch(w)]
    command = line_of(settings, *words, "action=preflight")
    return f"no preflight has passed; first: {command}"


@dataclass(frozen=True)
class Work:
    """What a run does, once its name and its paths are known; most jobs are one command and its values."""

    command: Command
    values: tuple[tuple[str, Value], ...]
    files: tuple[RunFile, ...] = ()
    members: tuple[Member, ...] = ()
    results: str | None = None
    details: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def job(settings: Settings) -> Asking[Plan]:
    """The plan that runs the phase's job `settings.action`."""
    declared = declared_job(settings, needed_phase(settings))

    def work(paths: RunPaths) -> Work:
        script = str(paths.folder.parent.parent / declared.entrypoint)
        return Work(job_command(declared, script), declared.args)

    return (yield from planned(settings, declared, work))


def planned(settings: Settings, declared: Job, work_of: Callable[[RunPaths], Work]) -> Asking[Plan]:
    """The plan of a run of the phase, whatever its work is."""
    phase = needed_phase(settings)
    log_name = settings.paths.research_log.name
    folder = f"{log_name}/{phase.name}"
    code: Code = yield code_of(settings.paths.root, folder, phase.artifacts)
    yaml = dict(phase_files(settings.paths.conf)).get(phase.choice)
    revision = yield from ask_revision(settings.paths.root, folder, phase.artifacts, yaml)
    run = next_run(settings.paths.research_log / phase.name, declared.name, settings.run)
    paths = RunPaths.of(log_name, phase.name, run)
    work = work_of(paths)
    submission = Submission(
        command=work.command,
        paths=paths,
        files=work.files,
        moves_old_log=_is_old_log(settings, paths),
    )
    submission = replace(
        submission,
        code=code.digest,
        secrets=tuple(name for name, value in declared.env if value is None),
        artifacts=phase.artifacts,
    )
    steps = _job_steps(settings, phase, code, submission)
    local_folder = settings.paths.root / paths.folder
    plan = Plan(
        action=declared.name,
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=steps,
        basis=(("machine", settings.alias), ("code", code.digest), ("run", run)),
        run=run,
        run_folder=str(local_folder),
        details=(
            ("values", _shown_values(work.values)),
            *work.details,
            ("code", _shown_code(code, revision)),
        ),
        values=work.values,
        code=revision,
        notes=(*_job_notes(submission), *work.notes),
        monitor=sh("tail", "-f", settings.paths.shown(local_folder / "log")).text,
        artifacts=phase.artifacts,
        members=work.members,
        results=work.results,
        arguments=settings.typed,
        token=submission.token,
    )
    return _require_preflight(plan, settings, phase)


def _job_steps(settings: Settings, phase: Phase, code: Code, submission: Submission) -> tuple[Step, ...]:
    """The environment and the job; for a machine also its code before, and its artifacts behind."""
    if settings.instance.is_local:
        return (setup_step(settings, phase), *_executor_of(settings).submit(submission))
    from runner.jobs.transfer import backup_step, sync_step

    home = (backup_step(settings, phase),) if phase.artifacts else ()
    job = _executor_of(settings).submit(submission)
    return (sync_step(settings, phase, code, submission), setup_step(settings, phase), *job, *home)


def declared_job(settings: Settings, phase: Phase) -> Job:
    """The job, with its script in place; else what there is to choose from."""
    declared = phase.job(settings.action)
    folder = settings.paths.research_log / phase.name
    if declared is None:
        raise UsageError(f"{phase.name} has no job {settings.action}")
    if not folder.is_dir():
        raise UsageError(
            f"{settings.paths.shown(folder)}: there is no such folder, though phase.name says so",
            "Make it, or say where the phases are: paths.research_log=DIR",
        )
    if phase.source is None and not (folder / declared.entrypoint).is_file():
        scripts = sorted(path.name for path in folder.glob("*.py"))
        raise UsageError(
            f"phase.jobs.{declared.name}.entrypoint: {settings.paths.shown(folder / declared.entrypoint)} "
            "does not exist",
            *choices(declared.entrypoint, scripts, "Scripts there"),
        )
    return declared


def _is_old_log(settings: Settings, paths: RunPaths) -> bool:
    """Whether `run.log` is a real file, which a link must not replace."""
    newest = settings.paths.root / paths.newest_log
    return newest.exists() and not newest.is_symlink()


def _job_notes(submission: Submission) -> tuple[str, ...]:
    """What a reader should know before consenting."""
    if not submission.moves_old_log:
        return ()
    kept = submission.paths.folder / "run.log.before"
    return (f"{submission.paths.newest_log} is a file from before; it is kept as {kept}",)


def _shown_values(values: tuple[tuple[str, Value], ...]) -> str:
    """`batch_size 32 · epochs 3`."""
    given = ((key, value) for key, value in values if value is not None)
    return " · ".join(f"{key} {_shown_value(value)}" for key, value in given) or "none"


def _shown_value(value: Value) -> str:
    """A value in a line for a reader: what would break the line, or cannot be seen, is escaped."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown_value, value))}]"
    text = script_text(value)
    return text if text.isprintable() and text.strip() else repr(text)


def _shown_code(code: Code, revision: Revision) -> str:
    """`4a1f2c9 + 2 changed files: train.py, PLAN.md`."""
    num = len(revision.changed)
    base = revision.commit or f"{counted(len(code.files), 'file')}, {code.digest}"
    if not num:
        return base
    names = ", ".join(revision.changed[:4]) + (", …" if num > 4 else "")
    return f"{base} + {counted(num, 'changed file')}: {names}"


def counted(num: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{num} {noun}{'s' * (num != 1)}"


def run(settings: Settings) -> Asking[Plan]:
    """One command on the machine, as a run of its own; without a phase it belongs to the research log."""
    yield from ()
    if not settings.command:
        raise UsageError("action=run needs a command: command='nvidia-smi'")
    folder = _phase_folder(settings)
    name = next_run(folder, "run")
    paths = RunPaths(PurePosixPath(folder.relative_to(settings.paths.root), "runs", name))
    submission = Submission(
        command=sh("bash", "-c", settings.command),
        paths=paths,
        artifacts=settings.phase.artifacts if settings.phase else (),
        is_adhoc=True,
    )
    here = settings.paths.root / paths.folder
    return Plan(
        action="run",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=settings.phase.name if settings.phase else None,
        steps=_executor_of(settings).submit(submission),
        basis=(("machine", settings.alias), ("run", name)),
        run=name,
        run_folder=str(here),
        details=(("command", settings.command),),
        monitor=sh("tail", "-f", settings.paths.shown(here / "log")).text,
        arguments=settings.typed,
        token=submission.token,
    )


def _phase_folder(settings: Settings) -> Path:
    """Where the runs of these settings are kept: in the phase, or in the research log itself."""
    log = settings.paths.research_log
    return log / settings.phase.name if settings.phase else log


@dataclass(frozen=True)
class Started:
    """A run that was started from here: its folder here, and the machine that its plan names."""

    folder: Path
    target: Target

    @property
    def name(self) -> str:
        """`0003-train`."""
        return self.folder.name


def logs(settings: Settings) -> Asking[Plan]:
    """Show the log of a run until it ends, or its last lines; works on what is here where nobody answers."""
    yield from ()
    started = started_run(settings)
    _check_started(settings, started)
    paths = paths_of(settings, started)
    steps = _executor_for(settings, started).logs(paths, settings.lines)
    plan = Plan(
        action="logs",
        effect=Effect.READ,
        target=started.target,
        phase=_phase_of(settings, started),
        steps=steps,
        run=started.name,
    )
    return plan if settings.lines is not None else _followed(plan, settings, started)


def _followed(plan: Plan, settings: Settings, started: Started) -> Plan:
    """The plan that sees the run to its end, and then leaves what the one that started it would have left."""
    first = read_json(started.folder / "plan.json") or {}
    if "digest" not in first:
        return plan
    numbers = sorted(line["member"] for line in read_lines(started.folder / CONFIGS))
    members = zip(numbers, first.get("members", ()), strict=False)
    return replace(
        plan,
        run_folder=str(started.folder),
        started_by=first["digest"],
        artifacts=settings.phase.artifacts if settings.phase else (),
        members=tuple(Member(n, tuple(m["overrides"]), m["process"]) for n, m in members),
        results=first.get("results"),
    )


def _check_started(settings: Settings, started: Started) -> None:
    """NeverStarted for a run that has no log anywhere, because a step before its job failed."""
    failed = failed_before_start(started.folder)
    if failed is None or (started.folder / "log").exists():
        return
    doctor = spell_next(settings, "doctor", f"run={started.name.partition('-')[0]}")
    raise NeverStarted(
        failed.exit_code,
        f"{started.name} never started, so it has no log: its step {failed.name} ended with exit code "
        f"{failed.exit_code}",
        *(f"  {line}" for line in failed.last_lines),
        f"What to do about it: {doctor}",
    )


def stop(settings: Settings) -> Asking[Plan]:
    """End a run, not the machine. Unreachable when nobody knows whether it runs."""
    started = started_run(settings)
    executor, paths = _executor_for(settings, started), paths_of(settings, started)
    status: RunStatus = yield executor.state(paths)
    if status.state is RunState.UNKNOWN:
        raise Unreachable(
            f"{started.target.name} does not answer, so that {started.name} cannot be stopped",
            "A run goes on without us, and so does the price of its machine.",
            f"See it: {spell_next(settings, 'status')}",
        )
    runs = status.state is RunState.RUNNING
    return Plan(
        action="stop",
        effect=Effect.CHANGE,
        target=started.target,
        phase=_phase_of(settings, started),
        steps=(executor.stop(paths),) if runs else (),
        basis=(("machine", started.target.name), ("run", started.name), ("state", status.state.value)),
        reason=None if runs else _not_running(settings, started, status),
    )


def _not_running(settings: Settings, started: Started, status: RunStatus) -> str:
    """Why there is nothing to stop."""
    if status.state is RunState.ENDED:
        return f"{started.name} ended with exit code {status.exit_code}"
    if status.state is RunState.LOST:
        return f"{started.name} is gone and left no exit code (a reboot, or kill -9)"
    if status.is_anothers:
        return (
            f"{started.name} on {started.target.name} is not the run that was started from here: another "
            f"laptop or a fresh clone started one of this name. "
            f"See what runs: {spell_next(settings, 'status')}"
        )
    return f"{started.name} is not on {started.target.name}"


def started_run(settings: Settings) -> Started:
    """The run that is meant: `run=`, else the newest; of the phase, else of all phases."""
    log = settings.paths.research_log
    folders = [_phase_folder(settings)] if settings.phase else [log, *sorted(log.glob("phase*"))]
    found = [folder / "runs" / name for folder in folders if (name := find_run(folder, settings.run))]
    if settings.run and len(found) > 1:
        raise UsageError(
            f"run={settings.run}: {len(found)} phases have such a run; say which: phase=NAME",
            *(settings.paths.shown(path) for path in found),
        )
    if not found:
        raise _no_run(settings, folders)
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return Started(newest, _target_in(newest, target_of(settings)))


def _no_run(settings: Settings, folders: list[Path]) -> UsageError:
    """What there is instead."""
    names = [name for folder in folders for name in run_names(folder)]
    where = settings.phase.name if settings.phase else settings.paths.shown(settings.paths.research_log)
    if settings.run:
        return UsageError(
            f"run={settings.run}: {where} has no such run", *choices(settings.run, names, "Runs")
        )
    named = () if settings.phase else ("phase=NAME",)
    return UsageError(f"{where} has no runs yet", f"Start one: {spell_next(settings, 'JOB', *named)}")


def _target_in(folder: Path, otherwise: Target) -> Target:
    """The machine that the run's own plan names; `otherwise` where the plan cannot be read."""
    try:
        named = json.loads((folder / "plan.json").read_text())["instance"]
        return Target(named["name"], named["provider"], named["type"], named["usd_per_hour"])
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise


def _executor_for(settings: Settings, started: Started) -> Executor:
    """How to reach the run, whatever instance the settings name now; `machine=` overrules."""
    is_local = started.target.provider == LOCAL
    same = settings.instance.is_local == is_local
    provider = settings.instance.provider if same else started.target.provider
    name = settings.machine or started.target.name
    return _executor_of(
        replace(
            settings,
            instance=replace(settings.instance, provider=provider, name=name),
            machine=None if is_local else name,
        )
    )


def paths_of(settings: Settings, started: Started) -> RunPaths:
    """The run's paths below the root."""
    return RunPaths(PurePosixPath(started.folder.relative_to(settings.paths.root)))


def _phase_of(settings: Settings, started: Started) -> str | None:
    """The phase of the run, if it has one."""
    folder = started.folder.parent.parent
    return None if folder == settings.paths.research_log else folder.name

"""A job of a phase as one plan: sync, setup, start, follow, backup, those that apply."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from runner.errors import UsageError, choices
from runner.executors.base import RunFile, Submission, job_command
from runner.facts.fact import Asking
from runner.facts.research_log import Code, Revision, RunPaths, code_of, next_run, revision_of
from runner.plan.command import Command, sh
from runner.plan.plan import Effect, Member, Plan, Step
from runner.plan.settings import Job, Phase, Settings, Value, spelled
from runner.verbs.environment import needed_phase, setup_step
from runner.verbs.target import executor_of, target_of
from runner.verbs.tested import tested


@dataclass(frozen=True)
class Work:
    """What a run does, once its name and its paths are known; most jobs are one command and its values."""

    command: Command
    values: str
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
        return Work(job_command(declared, script), shown_values(declared))

    return (yield from planned(settings, declared, work))


def planned(settings: Settings, declared: Job, work_of: Callable[[RunPaths], Work]) -> Asking[Plan]:
    """The plan of a run of the phase, whatever its work is."""
    phase = needed_phase(settings)
    log_name = settings.paths.research_log.name
    folder = f"{log_name}/{phase.name}"
    code: Code = yield code_of(settings.paths.root, folder, phase.artifacts)
    revision: Revision = yield revision_of(settings.paths.root, folder, phase.artifacts)
    run = next_run(settings.paths.research_log / phase.name, declared.name, settings.run)
    paths = RunPaths.of(log_name, phase.name, run)
    work = work_of(paths)
    submission = Submission(
        command=work.command,
        paths=paths,
        files=work.files,
        keeps_log=is_old_log(settings, paths),
    )
    submission = replace(
        submission,
        code=code.digest,
        secrets=tuple(name for name, value in declared.env if value is None),
        artifacts=phase.artifacts,
    )
    steps = job_steps(settings, phase, code, submission)
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
        details=(("values", work.values), *work.details, ("code", shown_code(code, revision))),
        notes=(*job_notes(submission), *work.notes),
        monitor=sh("tail", "-f", settings.paths.shown(local_folder / "log")).text,
        artifacts=phase.artifacts,
        members=work.members,
        results=work.results,
        arguments=settings.typed,
    )
    return tested(plan, settings, phase)


def job_steps(settings: Settings, phase: Phase, code: Code, submission: Submission) -> tuple[Step, ...]:
    """The environment and the job; for a machine also its code before, and its artifacts behind."""
    if settings.instance.is_local:
        return (setup_step(settings, phase), *executor_of(settings).submit(submission))
    from runner.plan.route import sharing
    from runner.verbs.artifacts import backup_step, sync_step

    shared = sharing(settings, str(submission.paths.folder))
    home = (backup_step(shared, phase),) if phase.artifacts else ()
    job = executor_of(shared).submit(submission)
    return (sync_step(shared, phase, code, submission), setup_step(shared, phase), *job, *home)


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


def is_old_log(settings: Settings, paths: RunPaths) -> bool:
    """Whether `run.log` is a real file, which a link must not replace."""
    newest = settings.paths.root / paths.newest_log
    return newest.exists() and not newest.is_symlink()


def job_notes(submission: Submission) -> tuple[str, ...]:
    """What a reader should know before consenting."""
    if not submission.keeps_log:
        return ()
    kept = submission.paths.folder / "run.log.before"
    return (f"{submission.paths.newest_log} is a file from before; it is kept as {kept}",)


def shown_values(declared: Job) -> str:
    """`batch_size 32 · epochs 3`."""
    given = ((key, value) for key, value in declared.args if value is not None)
    return " · ".join(f"{key} {shown_value(value)}" for key, value in given) or "none"


def shown_value(value: Value) -> str:
    """A value in a line for a reader: what would break the line, or cannot be seen, is escaped."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown_value, value))}]"
    text = spelled(value)
    return text if text.isprintable() and text.strip() else repr(text)


def shown_code(code: Code, revision: Revision) -> str:
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

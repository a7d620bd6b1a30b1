"""run, logs, stop: one command on the machine, and what can be done with a run that was started."""

import json
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from runner.errors import NeverStarted, Unreachable, UsageError, choices
from runner.executors.base import Executor, Submission
from runner.facts.fact import Asking
from runner.facts.health import failed_before_start
from runner.facts.metrics import read_lines
from runner.facts.research_log import RunPaths, find_run, next_run, run_names
from runner.facts.run import RunState, RunStatus
from runner.facts.samples import CONFIGS, read_json
from runner.plan.command import sh
from runner.plan.plan import Effect, Member, Plan, Target
from runner.plan.route import sharing
from runner.plan.settings import LOCAL, Settings
from runner.verbs.own_line import own_line
from runner.verbs.target import executor_of, target_of


def run(settings: Settings) -> Asking[Plan]:
    """One command on the machine, as a run of its own; without a phase it belongs to the research log."""
    yield from ()
    if not settings.command:
        raise UsageError("action=run needs a command: command='nvidia-smi'")
    folder = phase_folder(settings)
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
        steps=executor_of(settings).submit(submission),
        basis=(("machine", settings.alias), ("run", name)),
        run=name,
        run_folder=str(here),
        details=(("command", settings.command),),
        monitor=sh("tail", "-f", settings.paths.shown(here / "log")).text,
        arguments=settings.typed,
    )


def phase_folder(settings: Settings) -> Path:
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
    check_started(settings, started)
    paths = paths_of(settings, started)
    way = settings if settings.lines is not None else sharing(settings, str(paths.folder))
    steps = executor_for(way, started).logs(paths, settings.lines)
    plan = Plan(
        action="logs",
        effect=Effect.READ,
        target=started.target,
        phase=phase_of(settings, started),
        steps=steps,
        run=started.name,
    )
    return plan if settings.lines is not None else followed(plan, settings, started)


def followed(plan: Plan, settings: Settings, started: Started) -> Plan:
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


def check_started(settings: Settings, started: Started) -> None:
    """NeverStarted for a run that has no log anywhere, because a step before its job failed."""
    failed = failed_before_start(started.folder)
    if failed is None or (started.folder / "log").exists():
        return
    doctor = own_line(settings, "doctor", f"run={started.name.partition('-')[0]}")
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
    executor, paths = executor_for(settings, started), paths_of(settings, started)
    status: RunStatus = yield executor.state(paths)
    if status.state is RunState.UNKNOWN:
        raise Unreachable(
            f"{started.target.name} does not answer, so that {started.name} cannot be stopped",
            "A run goes on without us, and so does the price of its machine.",
            f"See it: {own_line(settings, 'status')}",
        )
    runs = status.state is RunState.RUNNING
    return Plan(
        action="stop",
        effect=Effect.CHANGE,
        target=started.target,
        phase=phase_of(settings, started),
        steps=(executor.stop(paths),) if runs else (),
        basis=(("machine", started.target.name), ("run", started.name), ("state", status.state.value)),
        reason=None if runs else not_running(settings, started, status),
    )


def not_running(settings: Settings, started: Started, status: RunStatus) -> str:
    """Why there is nothing to stop."""
    if status.state is RunState.ENDED:
        return f"{started.name} ended with exit code {status.exit_code}"
    if status.state is RunState.LOST:
        return f"{started.name} is gone and left no exit code (a reboot, or kill -9)"
    if status.is_anothers:
        return (
            f"{started.name} on {started.target.name} is not the run that was started from here: another "
            f"laptop or a fresh clone started one of this name. See what runs: {own_line(settings, 'status')}"
        )
    return f"{started.name} is not on {started.target.name}"


def started_run(settings: Settings) -> Started:
    """The run that is meant: `run=`, else the newest; of the phase, else of all phases."""
    log = settings.paths.research_log
    folders = [phase_folder(settings)] if settings.phase else [log, *sorted(log.glob("phase*"))]
    found = [folder / "runs" / name for folder in folders if (name := find_run(folder, settings.run))]
    if settings.run and len(found) > 1:
        raise UsageError(
            f"run={settings.run}: {len(found)} phases have such a run; say which: phase=NAME",
            *(settings.paths.shown(path) for path in found),
        )
    if not found:
        raise no_run(settings, folders)
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return Started(newest, target_in(newest, target_of(settings)))


def no_run(settings: Settings, folders: list[Path]) -> UsageError:
    """What there is instead."""
    names = [name for folder in folders for name in run_names(folder)]
    where = settings.phase.name if settings.phase else settings.paths.shown(settings.paths.research_log)
    if settings.run:
        return UsageError(
            f"run={settings.run}: {where} has no such run", *choices(settings.run, names, "Runs")
        )
    named = () if settings.phase else ("phase=NAME",)
    return UsageError(f"{where} has no runs yet", f"Start one: {own_line(settings, 'JOB', *named)}")


def target_in(folder: Path, otherwise: Target) -> Target:
    """The machine that the run's own plan names; `otherwise` where the plan cannot be read."""
    try:
        named = json.loads((folder / "plan.json").read_text())["instance"]
        return Target(named["name"], named["provider"], named["type"], named["usd_per_hour"])
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise


def executor_for(settings: Settings, started: Started) -> Executor:
    """How to reach the run, whatever instance the settings name now; `machine=` overrules."""
    is_local = started.target.provider == LOCAL
    same = settings.instance.is_local == is_local
    provider = settings.instance.provider if same else started.target.provider
    name = settings.machine or started.target.name
    return executor_of(
        replace(
            settings,
            instance=replace(settings.instance, provider=provider, name=name),
            machine=None if is_local else name,
        )
    )


def paths_of(settings: Settings, started: Started) -> RunPaths:
    """The run's paths below the root."""
    return RunPaths(PurePosixPath(started.folder.relative_to(settings.paths.root)))


def phase_of(settings: Settings, started: Started) -> str | None:
    """The phase of the run, if it has one."""
    folder = started.folder.parent.parent
    return None if folder == settings.paths.research_log else folder.name

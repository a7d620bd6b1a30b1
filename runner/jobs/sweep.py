"""A sweep as one plan: members folded into processes, values in configs.jsonl, results by member."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from runner.environment.setup import needed_phase
from runner.errors import UsageError, choices
from runner.executors.base import RunFile, job_command
from runner.jobs.job import Work, counted, declared_job, planned
from runner.plan.command import Command, quote, sh
from runner.plan.fold import Process, SweptJob, config_line, fold
from runner.plan.plan import Effect, Member, Plan, target_of
from runner.plan.settings import Job, Settings, Value
from runner.research_log.runs import RunPaths, find_run
from runner.research_log.sweep_results import (
    CONFIGS,
    SAMPLES,
    earlier_costs,
    read_configs,
    results_of,
    unfinished,
)
from runner.world.world import Asking

_PROCESSES = "processes.sh"

# Runs processes one after the other. What a stop leaves undone has no result, so that `resume` finds it.
_DRIVER = """\
# One line a process, in order; a failure ends its process alone, and the first one's exit code is the run's.
out={out}; first=0; stopped=; mkdir -p "$out" || exit; trap 'stopped=1' INT TERM HUP
run() {{ # title, member whose result is kept here ('' when the script keeps its own), command
  local title=$1 member=$2 code=0 from=$SECONDS name; shift 2
  if [ -n "$stopped" ] || {{ [ -n "$member" ] && [ -e "$out/$member.json" ]; }}; then return; fi
  printf '== %s\\n' "$title"; "$@" || code=$?
  if [ "$code" != 0 ] && [ "$first" = 0 ]; then first=$code; fi
  if [ -n "$stopped" ] || [ -z "$member" ]; then return; fi
  name=$member.json; [ "$code" = 0 ] || name=$member.error.json
  rm -f "$out/$member.error.json"
  printf '{{"member": "%s", "exit_code": %d, "seconds": %d}}\\n' "$member" "$code" $((SECONDS - from)) \\
    > "$out/$name.new"
  mv "$out/$name.new" "$out/$name"
}}"""


def sweep(settings: Settings, members: Sequence[SweptJob]) -> Asking[Plan]:
    """The plan that runs all members of a multirun."""
    declared = declared_job(settings, needed_phase(settings))
    return (yield from _sweep_plan(settings, declared, members, None))


def resumed(settings: Settings) -> Asking[Plan]:
    """The plan that runs what is missing of the sweep `settings.resume`, as it was configured then."""
    phase = needed_phase(settings)
    declared = declared_job(settings, phase)
    folder = settings.paths.research_log / phase.name
    run = find_run(folder, settings.resume)
    if run is None:
        known = sorted(path.name for path in (folder / "runs").glob("*"))
        raise UsageError(
            f"resume={settings.resume}: {phase.name} has no such run", *choices("", known, "Runs")
        )
    if not run.endswith(f"-{declared.name}"):
        raise UsageError(f"resume={settings.resume}: {run} is not a run of {declared.name}")
    members = tuple(member for _, member in read_configs(folder / "runs" / run / CONFIGS, declared))
    if not members:
        raise UsageError(
            f"resume={settings.resume}: {run} is no sweep, so no member of it can be missing",
            "A job that was stopped goes on from what it saved when it is run again.",
        )
    # a resumed run may be resumed again: the results stay with the first
    origin = PurePosixPath(results_of(folder / "runs" / run) or run).name
    missing = unfinished(folder / SAMPLES / origin, _in_batches_as_typed(settings, members))
    if not missing:
        return _nothing_missing(settings, phase.name, run, len(members))
    return (yield from _sweep_plan(settings, declared, missing, origin))


def _in_batches_as_typed(settings: Settings, members: Sequence[SweptJob]) -> tuple[SweptJob, ...]:
    """The members as they were, but for a batch size that is typed now: what ran out of memory needs less."""
    if not any(word.startswith("batch_size=") for word in settings.typed):
        return tuple(members)
    return tuple(
        replace(
            m,
            job=replace(
                m.job, args=tuple(_in_smaller_batches(pair, settings.batch_size) for pair in m.job.args)
            ),
        )
        for m in members
    )


def _in_smaller_batches(pair: tuple[str, Value], batch_size: int | None) -> tuple[str, Value]:
    """An argument, with the batch size of now if it is that."""
    return (pair[0], batch_size) if pair[0] == "batch_size" else pair


def _nothing_missing(settings: Settings, phase: str, run: str, num: int) -> Plan:
    """A plan that does nothing, and says why."""
    return Plan(
        action=settings.action,
        effect=Effect.CHANGE,
        target=target_of(settings),
        steps=(),
        phase=phase,
        basis=(("resume", run),),
        reason=f"all {num} members of {run} are finished",
    )


def _sweep_plan(
    settings: Settings, declared: Job, members: Sequence[SweptJob], origin: str | None
) -> Asking[Plan]:
    """One plan for these members; their results go where those of the run `origin` are, if it has one."""
    processes = fold(members)
    settings = _with_results_brought_home(settings)

    def work(paths: RunPaths) -> Work:
        folder = paths.folder.parent.parent
        results = folder / SAMPLES / (origin or paths.folder.name)
        command, files = _commands(processes, paths, results)
        return Work(
            command=command,
            values=_shared_values(members),
            files=files,
            members=_listed(processes),
            results=str(settings.paths.root / results),
            details=(
                ("members", _shown_processes(processes)),
                *_estimate(settings, declared, members),
                ("results", settings.paths.shown(settings.paths.root / results) + "/"),
            ),
            notes=_duplicates(members),
        )

    return (yield from planned(settings, declared, work))


def _with_results_brought_home(settings: Settings) -> Settings:
    """The settings with the members' results among the phase's artifacts."""
    phase = needed_phase(settings)
    if f"{SAMPLES}/" in phase.artifacts:
        return settings
    return replace(settings, phase=replace(phase, artifacts=(*phase.artifacts, f"{SAMPLES}/")))


def _commands(
    processes: tuple[Process, ...], paths: RunPaths, results: PurePosixPath
) -> tuple[Command, tuple[RunFile, ...]]:
    """The command of the run and the files that it reads."""
    lines = tuple(config_line(member, p.number) for p in processes for member in p.members)
    configs = RunFile(CONFIGS, lines)
    if len(processes) == 1 and processes[0].is_folded:
        return _folded_command(processes[0], paths, paths.folder / CONFIGS, results), (configs,)
    driver = RunFile(_PROCESSES, _driver_lines(processes, paths, results))
    parts = [_part_of(p) for p in processes if p.is_folded]
    return sh("bash", paths.folder / _PROCESSES), (configs, *parts, driver)


def _part_of(process: Process) -> RunFile:
    """The configs of one process of several."""
    lines = tuple(config_line(member, process.number) for member in process.members)
    return RunFile(_part_name(process), lines)


def _part_name(process: Process) -> str:
    """Where a process of several finds its configs."""
    return f"configs-{process.number}.jsonl"


def _folded_command(
    process: Process, paths: RunPaths, configs: PurePosixPath, results: PurePosixPath
) -> Command:
    """The script with what it loads as arguments, and a file of configs for all else."""
    load = process.members[0].load
    args = (*load.items(), ("configs", str(configs)), ("out", str(results)))
    job = replace(process.job, args=args)
    return job_command(job, str(paths.folder.parent.parent / job.entrypoint))


def _driver_lines(processes: tuple[Process, ...], paths: RunPaths, results: PurePosixPath) -> tuple[str, ...]:
    """A small bash program: a function, and a line for every process."""
    lines = [_DRIVER.format(out=quote(str(results)))]
    for process in processes:
        if process.is_folded:
            command = _folded_command(process, paths, paths.folder / _part_name(process), results)
            num = len(process.members)
            title, kept = f"process {process.number}: {counted(num, 'member')}", ""
        else:
            member = process.members[0]
            command = job_command(member.job, str(paths.folder.parent.parent / member.job.entrypoint))
            title, kept = f"member {member.number}: {' '.join(member.overrides)}", str(member.number)
        lines.append(f"{sh('run', title, kept).text} {command.text}")
    return (*lines, 'exit "$first"')


# --------------------------------------------------------------------------------- for the reader


def _listed(processes: tuple[Process, ...]) -> tuple[Member, ...]:
    """All members, in the order of the sweep."""
    found = [Member(m.number, m.overrides, p.number) for p in processes for m in p.members]
    return tuple(sorted(found, key=lambda member: member.number))


def _shared_values(members: Sequence[SweptJob]) -> tuple[tuple[str, Value], ...]:
    """The values that all members agree in."""
    return tuple(pair for pair in members[0].job.args if all(pair in m.job.args for m in members[1:]))


def _shown_processes(processes: tuple[Process, ...]) -> str:
    """`6 in 1 process, which loads model, backend, dtype once`."""
    num = sum(len(process.members) for process in processes)
    several = "process" if len(processes) == 1 else "processes, one after the other"
    text = f"{num} in {len(processes)} {several}"
    keys = processes[0].job.fold
    if keys is None:
        return f"{text}; the job declares no fold"
    return f"{text}; what is loaded ({', '.join(keys)}) is loaded once in each"


def _duplicates(members: Sequence[SweptJob]) -> tuple[str, ...]:
    """A note when members differ in nothing that the script is given."""
    distinct = len({repr((member.job.args, member.job.env)) for member in members})
    if distinct == len(members):
        return ()
    return (f"only {distinct} of {len(members)} members differ in what the script is given",)


def _estimate(settings: Settings, declared: Job, members: Sequence[SweptJob]) -> tuple[tuple[str, str], ...]:
    """What it will cost, where a machine is paid for: from what members of earlier runs took."""
    price = settings.instance.usd_per_hour
    if settings.instance.is_local or not price:
        return ()
    folder = settings.paths.research_log / needed_phase(settings).name
    earlier = earlier_costs(folder, declared.name)
    if earlier is None:
        return (("estimate", f"no earlier run to go by; ${price:.2f} for every hour that it takes"),)
    processes = fold(members)
    seconds = len(processes) * earlier.load_s + len(members) * earlier.member_s
    usd = price * seconds / 3600
    as_then = f"if members take as long as in {earlier.run} on {earlier.machine}"
    return (("estimate", f"${usd:.2f}: {seconds / 60:.0f} min {as_then}"),)

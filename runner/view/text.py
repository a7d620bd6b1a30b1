"""Plans, results and errors for people: one line of each is the next command."""

from collections.abc import Iterable, Sequence
from functools import singledispatch
from pathlib import Path
from signal import Signals

from runner.errors import RunnerError
from runner.plan.next_command import line_of, overview_line, repeat_line, spell_next
from runner.plan.plan import Effect, FailedMember, Member, Plan, PlanResult, Step, WriteFile
from runner.plan.settings import Settings
from runner.research_log.discover import Discovery
from runner.research_log.phases import State
from runner.view.attempts import attempts_lines

_SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Paint:
    """Colours that are there on a terminal and vanish in a pipe."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, *styles: str) -> str:
        """`text` in these styles."""
        if not self.colour or not styles:
            return text
        return f"\033[{';'.join(_SGR[style] for style in styles)}m{text}\033[0m"


_SHOWN = 60  # rows; configs.jsonl and output=json have them all


def _members_table(plan: Plan, paint: Paint) -> list[str]:
    """A row a member, a column for every swept key; empty for a plan that is no sweep."""
    if not plan.members:
        return []
    keys = [override.partition("=")[0] for override in plan.members[0].overrides]
    head = ("member", "process", *keys)
    rows = [(str(m.number), str(m.process), *_values_of(m)) for m in plan.members[:_SHOWN]]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [aligned(row, widths) for row in (head, *rows)]
    more = len(plan.members) - len(rows)
    rest = [f"  … {more:,} more: output=json has them all"] if more else []
    return ["", paint(lines[0], "bold"), *lines[1:], *rest]


def _values_of(member: Member) -> list[str]:
    """What stands behind the keys, on one line each."""
    return [_one_line(override.partition("=")[2]) for override in member.overrides]


def _one_line(text: str) -> str:
    """The text with what would move the cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """The cells, two columns of space between them."""
    return ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def _members_outcome(result: PlanResult, settings: Settings) -> list[str]:
    """How many finished, each that failed with its error and how to run just it, and how to go on."""
    if result.members is None:
        return []
    plan, told = result.plan, result.members
    failed = f", {len(told.failed)} failed" if told.failed else ""
    lines = [f"  members   {told.num_finished} of {len(plan.members)} finished{failed}"]
    by_number = {member.number: member for member in plan.members}
    for member in told.failed:
        lines += _failed_lines(member, by_number[member.number], settings)
    if told.num_finished < len(plan.members):
        lines.append(f"  missing   {_resume_line(result, settings)}")
    return lines


def _failed_lines(failed: FailedMember, member: Member, settings: Settings) -> list[str]:
    """One member's error, and the command that runs it alone."""
    said = failed.error.strip().splitlines() or [f"exit code {failed.exit_code}"]
    return [
        f"    {failed.number}  {_one_line(' '.join(member.overrides))}: {_one_line(said[0][:200])}",
        f"       alone: {line_of(settings, *_alone(member, settings))}",
    ]


def _alone(member: Member, settings: Settings) -> list[str]:
    """What was typed, with the sweeps replaced by this member's values."""
    own = {override.lstrip("+").partition("=")[0]: override for override in member.overrides}
    words, used = [], set()
    for word in settings.typed:
        key = word.lstrip("+").partition("=")[0]
        if key in own:
            used.add(key)
            words.append(own[key])
        elif word != "-m" and key != "resume":
            words.append(word)
    return [*words, *(override for key, override in own.items() if key not in used)]


def _resume_line(result: PlanResult, settings: Settings) -> str:
    """The command that runs what is missing; in a smaller batch when memory was short."""
    swept = {o.lstrip("+").partition("=")[0] for m in result.plan.members for o in m.overrides}
    words = [w for w in settings.typed if w != "-m" and w.lstrip("+").partition("=")[0] not in swept]
    words = [w for w in words if not w.startswith(("resume=", "batch_size="))]
    words.append(f"resume={(result.plan.run or '').partition('-')[0]}")
    if result.members and any(member.out_of_memory for member in result.members.failed):
        words.append(f"batch_size={max(1, (settings.batch_size or 1) // 2)}")
    return line_of(settings, *words)


_MARKS = {Effect.READ: "?", Effect.CHANGE: "~", Effect.PAY: "$", Effect.DESTROY: "-"}
_EFFECT_COLOUR = {Effect.READ: "cyan", Effect.CHANGE: "green", Effect.PAY: "yellow", Effect.DESTROY: "red"}
_STATE_COLOUR = {State.COMPLETE: "green", State.ACTIVE: "yellow", State.PENDING: "cyan", State.EMPTY: "dim"}


def plan_text(plan: Plan, settings: Settings, paint: Paint) -> str:
    """The whole plan; its last lines say how to run it, unless that was said, and how to watch it."""
    lines = [plan_title(plan, paint), f"  machine   {_machine_text(plan)}"]
    lines += [f"  {label:<9} {value}" for label, value in plan.details]
    lines += [f"  calls     {plan.calls}"] if plan.tools else []
    lines += [paint(f"  note      {note}", "yellow") for note in plan.notes]
    lines += _members_table(plan, paint)
    attempts = [step for step in plan.steps if step.attempt]
    lines += [""] if plan.steps else []
    for step in plan.steps:
        if len(attempts) > 1 and step.attempt:
            lines += _attempts_lines(attempts, paint) if step.attempt == 1 else []
        else:
            lines += _step_lines(step, paint)
    return "\n".join([*lines, "", *_closing(plan, settings, paint)])


def plan_title(plan: Plan, paint: Paint) -> str:
    """`Plan p3f9a1c0b77de   train · phase12-… · run 0007-train`."""
    title = " · ".join(part for part in (plan.action, plan.phase, plan.run and f"run {plan.run}") if part)
    return f"{paint(f'Plan {plan.digest}', 'bold')}   {title}"


def _machine_text(plan: Plan) -> str:
    """`lambda · gpu_1x_a100_sxm4 · $1.99/h`, or that it is this machine."""
    target = plan.target
    if target.provider == "local":
        return f"{target.name} · this machine · $0/h"
    return " · ".join(part for part in (target.name, target.type, f"${target.usd_per_hour:.2f}/h") if part)


def _step_lines(step: Step, paint: Paint) -> list[str]:
    """A line for what the step is, then the command whole, so that it can be pasted."""
    mark = paint(_MARKS[step.effect], _EFFECT_COLOUR[step.effect], "bold")
    file = step.action if isinstance(step.action, WriteFile) else None
    written = f"    {step.command}  ({file.num_lines:,} line{'s' * (file.num_lines != 1)})" if file else ""
    return [
        f"{mark} {paint(f'{step.name:<8}', 'bold')} {step.reason}".rstrip(),
        written or f"    {step.command}",
    ]


def _attempts_lines(attempts: Sequence[Step], paint: Paint) -> list[str]:
    """All of a launch's attempts, so that they can be compared."""
    first = attempts[0]
    mark = paint(_MARKS[first.effect], _EFFECT_COLOUR[first.effect], "bold")
    what = "one of these, in this order, until one succeeds; one machine is rented"
    head = f"{mark} {paint(f'{first.name:<8}', 'bold')} {what}"
    return [head, *attempts_lines(attempts)]


def _closing(plan: Plan, settings: Settings, paint: Paint) -> list[str]:
    """Why there is nothing to do, or how to do it."""
    if plan.refused:
        return [paint(f"Refused: {plan.reason}", "red"), "Nothing has run."]
    if not plan.steps:
        return [f"Nothing to do: {plan.reason}"]
    monitor = [f"Monitor with: {plan.monitor}"] if plan.monitor else []
    if settings.confirm != "false":
        return monitor
    return ["Nothing has run. To run exactly this:", f"  {consent_line(plan, settings)}", *monitor]


def consent_line(plan: Plan, settings: Settings) -> str:
    """The command line that runs exactly this plan."""
    return repeat_line(settings, f"confirm={plan.digest}")


@singledispatch
def report_text(report: object, paint: Paint) -> str:
    """A report for people."""
    raise NotImplementedError(type(report), paint)


@report_text.register
def _(report: Discovery, paint: Paint) -> str:
    if not report.phases:
        return f"No phases yet. Next:\n  {report.next}"
    rows = [
        (p.folder.name, p.folder.state.value, ", ".join(p.jobs) or "-", p.folder.name == report.current)
        for p in report.phases
    ]
    wide = max(len("PHASE"), *(len(row[0]) for row in rows))
    lines = [paint(f"  {'PHASE':<{wide}}  {'STATE':<8}  JOBS", "bold")]
    for name, state, jobs, current in rows:
        shown = paint(f"{state:<8}", _STATE_COLOUR[State(state)])
        lines.append(f"{paint('→', 'bold') if current else ' '} {name:<{wide}}  {shown}  {jobs}")
    return "\n".join([*lines, "", f"Current: {report.current}. Next:", f"  {report.next}"])


def result_text(result: PlanResult, settings: Settings, last_lines: Iterable[bytes], paint: Paint) -> str:
    """How it went, where everything is, and what to type next."""
    plan = result.plan
    name = " · ".join(part for part in (plan.action, plan.phase, plan.run) if part)
    seconds = sum(step.seconds for step in result.steps)
    if result.is_detached:
        return detached_text(result, settings, paint)
    if result.exit_code == 0:
        lines = [f"{paint('Done:', 'green', 'bold')} {name} in {duration(seconds)}"]
    else:
        how = "Stopped:" if result.exit_code == 130 else "Failed:"
        lines = [f"{paint(how, 'red', 'bold')} {name} after {duration(seconds)}: {_how_it_ended(result)}"]
        lines += _last_lines_text(last_lines)
    lines += _members_outcome(result, settings)
    rows = [("log", _shown_path(result.log, settings))] if result.log else []
    rows += _cost_rows(result, seconds)
    mended = _diagnosis_rows(result, settings) if result.exit_code not in (0, 130) else []
    rows += [("artifact", _shown_path(path, settings)) for path in result.artifacts]
    rows += mended or [("next", next_command(result, settings))]
    return "\n".join([*lines, *(f"  {label:<9} {value}" for label, value in rows)])


def _cost_rows(result: PlanResult, seconds: float) -> list[tuple[str, str]]:
    """What a run cost on a machine that is paid for by the hour."""
    usd_per_hour = result.plan.target.usd_per_hour
    if not (result.plan.run_folder and usd_per_hour):
        return []
    return [("cost", f"${usd_per_hour * seconds / 3600:.2f} at ${usd_per_hour:.2f}/h")]


def _diagnosis_rows(result: PlanResult, settings: Settings) -> list[tuple[str, str]]:
    """What doctor makes of the words of the run, and what mends it; nothing when it is at a loss."""
    from runner.doctor.job_rules import diagnose, evidence_of

    if not result.plan.run_folder:
        return []
    found = diagnose(evidence_of(settings, Path(result.plan.run_folder)), guesses=False)
    if not found:
        return []
    first = found[0]
    return [("cause", f"{first.symptom}: {first.cause}"), ("remedy", first.remedy)]


def detached_text(result: PlanResult, settings: Settings, paint: Paint) -> str:
    """The job goes on: how to see it again, and how to end it."""
    plan = result.plan
    number = (plan.run or "").partition("-")[0]
    rows = [
        (label, spell_next(settings, verb, f"run={number}"))
        for label, verb in (("reattach", "logs"), ("stop", "stop"))
    ]
    price = f" (${plan.target.usd_per_hour:.2f}/h)" if plan.target.usd_per_hour else ""
    head = f"{paint('Detached:', 'yellow', 'bold')} {plan.run} runs on, on {plan.target.name}{price}"
    return "\n".join([head, *(f"  {label:<9} {value}" for label, value in rows)])


def _how_it_ended(result: PlanResult) -> str:
    """`the job was killed by SIGKILL, exit code 137`."""
    failed = next((step for step in result.steps if step.exit_code), None)
    if result.exit_code == 130:
        return "stopped by Ctrl-C, exit code 130"
    who = "the job" if result.plan.run and failed and failed.name in ("start", "follow") else "its step"
    step = "" if who == "the job" or failed is None else f" {failed.name}"
    signal_name = _signal_named(result.exit_code)
    if signal_name:
        return f"{who}{step} was killed by {signal_name}, exit code {result.exit_code}"
    return f"{who}{step} ended with exit code {result.exit_code}"


def _signal_named(exit_code: int) -> str | None:
    """SIGKILL for 137."""
    try:
        return Signals(exit_code - 128).name if exit_code > 128 else None
    except ValueError:
        return None


def _last_lines_text(last_lines: Iterable[bytes]) -> list[str]:
    """The job's last words, indented."""
    shown = [line.decode(errors="replace") for line in last_lines]
    return ["  its last lines:", *(f"    {line}" for line in shown)] if shown else []


def next_command(result: PlanResult, settings: Settings) -> str:
    """After success the overview; after a failure the plan again."""
    if result.exit_code == 0:
        return result.plan.next or overview_line(settings)
    return repeat_line(settings)


def _shown_path(path: str, settings: Settings) -> str:
    """A path as it would be typed from here."""
    return settings.paths.shown(Path(path))


def duration(seconds: float) -> str:
    """`3.1 s`, `2 min 5 s`, `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def error_text(error: RunnerError, paint: Paint) -> str:
    """What happened, then what to type next, a line each."""
    return "\n".join([f"{paint('error:', 'red', 'bold')} {error.message}", *(f"  {h}" for h in error.hints)])

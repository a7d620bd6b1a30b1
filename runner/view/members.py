"""The members of a sweep for people: a table before, and what became of them after."""

from runner.plan.plan import Member, Plan
from runner.plan.result import FailedMember, PlanResult
from runner.plan.settings import Settings
from runner.verbs.own_line import line_of
from runner.view.paint import Paint

SHOWN = 60  # rows; configs.jsonl and output=json have them all


def members_table(plan: Plan, paint: Paint) -> list[str]:
    """A row a member, a column for every swept key; empty for a plan that is no sweep."""
    if not plan.members:
        return []
    keys = [override.partition("=")[0] for override in plan.members[0].overrides]
    head = ("member", "process", *keys)
    rows = [(str(m.number), str(m.process), *values_of(m)) for m in plan.members[:SHOWN]]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [aligned(row, widths) for row in (head, *rows)]
    more = len(plan.members) - len(rows)
    rest = [f"  … {more:,} more: output=json has them all"] if more else []
    return ["", paint(lines[0], "bold"), *lines[1:], *rest]


def values_of(member: Member) -> list[str]:
    """What stands behind the keys, on one line each."""
    return [one_line(override.partition("=")[2]) for override in member.overrides]


def one_line(text: str) -> str:
    """The text with what would move the cursor written out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """The cells, two columns of space between them."""
    return ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()


def members_outcome(result: PlanResult, settings: Settings) -> list[str]:
    """How many finished, each that failed with its error and how to run just it, and how to go on."""
    if result.members is None:
        return []
    plan, told = result.plan, result.members
    failed = f", {len(told.failed)} failed" if told.failed else ""
    lines = [f"  members   {told.num_finished} of {len(plan.members)} finished{failed}"]
    by_number = {member.number: member for member in plan.members}
    for member in told.failed:
        lines += failed_lines(member, by_number[member.number], settings)
    if told.num_finished < len(plan.members):
        lines.append(f"  missing   {resume_line(result, settings)}")
    return lines


def failed_lines(failed: FailedMember, member: Member, settings: Settings) -> list[str]:
    """One member's error, and the command that runs it alone."""
    said = failed.error.strip().splitlines() or [f"exit code {failed.exit_code}"]
    return [
        f"    {failed.number}  {one_line(' '.join(member.overrides))}: {one_line(said[0][:200])}",
        f"       alone: {line_of(settings, *alone(member, settings))}",
    ]


def alone(member: Member, settings: Settings) -> list[str]:
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


def resume_line(result: PlanResult, settings: Settings) -> str:
    """The command that runs what is missing; in a smaller batch when memory was short."""
    swept = {o.lstrip("+").partition("=")[0] for m in result.plan.members for o in m.overrides}
    words = [w for w in settings.typed if w != "-m" and w.lstrip("+").partition("=")[0] not in swept]
    words = [w for w in words if not w.startswith(("resume=", "batch_size="))]
    words.append(f"resume={(result.plan.run or '').partition('-')[0]}")
    if result.members and any(member.out_of_memory for member in result.members.failed):
        words.append(f"batch_size={max(1, (settings.batch_size or 1) // 2)}")
    return line_of(settings, *words)

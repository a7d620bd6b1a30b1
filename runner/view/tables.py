"""Rented machines for people: what can be had, what runs, what it costs."""

from collections.abc import Sequence
from datetime import UTC, datetime

from runner.machines.launch import Available
from runner.machines.ledger import Ledger, LedgerMachine
from runner.machines.probe import RemoteRun
from runner.machines.status import InstanceStatus, Status, Waited
from runner.research_log.runs import RATES
from runner.view.text import Paint, duration, report_text

_OF_NO_USE = ("unhealthy", "preempted")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what is in them."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    return [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


@report_text.register
def _(report: Available, paint: Paint) -> str:
    head = ("  TYPE", "GPU", "$/h", "FREE NOW IN")
    rows = [
        (
            ("→ " if kind.name in report.preferred else "  ") + kind.name,
            kind.gpu if kind.num_gpus else "no GPU",
            f"{kind.usd_per_hour:.2f}"
            + (" over the ceiling" if _is_dear(kind.name, kind.usd_per_hour, report) else ""),
            ", ".join(kind.regions) or "-",
        )
        for kind in report.types
    ]
    first, *rest = _table(head, rows)
    lines = [paint(first, "bold")]
    lines += [
        line if kind.regions else paint(line, "dim") for line, kind in zip(rest, report.types, strict=True)
    ]
    lines += ["", "Prices are the cloud's of this moment; capacity is a hint, not a reservation."]
    missing = [name for name in report.preferred if name not in {kind.name for kind in report.types}]
    if missing:
        lines.append(f"The cloud has no type {', '.join(missing)}.")
    return "\n".join([*lines, "To rent one:", f"  {report.launch}"])


def _is_dear(name: str, usd_per_hour: float, report: Available) -> bool:
    """Whether a preferred type now costs more than the instance's ceiling."""
    ceiling = report.max_usd_per_hour
    return name in report.preferred and ceiling is not None and usd_per_hour > ceiling


@report_text.register
def _(report: Status, paint: Paint) -> str:
    head = ("NAME", "TYPE", "REGION", "IP", "STATE", "$/h", "UP", "$ SO FAR")
    if report.instances:
        first, *rest = _table(head, [_status_row(row) for row in report.instances])
        lines = [paint(first, "bold")]
        for line, row in zip(rest, report.instances, strict=True):
            lines += [line, *_doing_lines(row)]
    else:
        lines = ["The list shows no machine." if report.doubtful else "No machine is rented."]
    lines += [
        paint(f"? {m.name}: asked for, not in the list yet; it may still come up, and be billed", "yellow")
        for m in report.doubtful
        if m not in report.elsewhere
    ]
    lines += [_filesystem_line(f.name, f.region, f.bytes_used) for f in report.filesystems]
    lines += [paint(f"warning: {warning}", "yellow") for warning in report.warnings]
    total = f"Together ${report.usd_per_hour:.2f}/h, {report.bound}${report.usd_so_far:.2f} so far"
    month = f"our machines this month: {report.bound_this_month}${report.usd_this_month:.2f}"
    return "\n".join([*lines, "", f"{total}; {month}."])


@report_text.register
def _(report: Waited, paint: Paint) -> str:
    machine = report.instance
    gpu = "CUDA works" if report.cuda else "no GPU was asked for"
    ready = f"{report.alias} answers at {machine.ip}, {gpu}, after {duration(report.seconds)}"
    return f"{paint('Ready:', 'green', 'bold')} {ready}. Next:\n  {report.next}"


def _status_row(row: InstanceStatus) -> tuple[str, ...]:
    """One machine's cells."""
    machine = row.instance
    name = row.alias if row.is_ours else machine.name or machine.id
    return (
        name,
        machine.type,
        machine.region,
        machine.ip or "-",
        machine.status,
        f"{machine.usd_per_hour:.2f}",
        f"{row.bound}{duration(row.up_s)}",
        f"{row.bound}{row.usd_so_far:.2f}",
    )


def _doing(row: InstanceStatus) -> str:
    """`idle for 2 h 3 min, GPU 0 %`, or why nobody knows; of a machine on which nothing runs."""
    if not row.is_ours:
        return "not ours"
    if row.instance.status in _OF_NO_USE:
        return "of no use, and billed: action=terminate"
    if row.inside is None or row.idle_s is None:
        return "does not answer ssh"
    gpu = f", GPU {row.inside.gpu_percent} %" if row.inside.gpu_percent is not None else ""
    return f"idle for {duration(row.idle_s)}{gpu}"


def _doing_lines(row: InstanceStatus) -> list[str]:
    """Below a machine's row, where a terminal is wide enough for it: its runs, or what it does without."""
    is_running = row.inside is not None and any(run.is_running for run in row.inside.runs)
    is_of_use = row.instance.status not in _OF_NO_USE
    return _run_lines(row) if is_running and is_of_use else [f"  {_doing(row)}", *_run_lines(row)]


def _run_lines(row: InstanceStatus) -> list[str]:
    """`lambda 0003-train: running, step 200, loss 0.366, 424 samples/s`: what runs, else what ran last."""
    runs = row.inside.runs if row.inside else ()
    alive = [run for run in runs if run.is_running]
    newest = sorted(runs, key=lambda run: run.touched_s_ago)[:1]
    return [f"  {row.alias} {run.name}: {_run_text(run, row)}" for run in alive or newest]


def _run_text(run: RemoteRun, row: InstanceStatus) -> str:
    """State, last metrics, throughput and the GPU's use."""
    ended = f" with exit code {run.exit_code}" if run.exit_code is not None else ""
    parts = [f"{run.state}{ended}"]
    if run.progress:
        parts.append(f"step {run.progress.step:g}")
        parts += [f"{name} {value:.4g}" for name, value in run.progress.metrics]
        parts += [f"{value:.4g} {_unit(name)}" for name, value in run.progress.throughput]
    if run.is_running and row.inside and row.inside.gpu_percent is not None:
        parts.append(f"GPU {row.inside.gpu_percent} %")
    return ", ".join(parts)


def _unit(name: str) -> str:
    """`samples_per_second` → `samples/s`."""
    ending = next(rate for rate in RATES if name.endswith(rate))
    return f"{name.removesuffix(ending)}/s"


def _filesystem_line(name: str, region: str, num_bytes: int | None) -> str:
    """Storage costs too."""
    size = f"{num_bytes / 2**30:.1f} GiB" if num_bytes is not None else "of unknown size"
    return f"filesystem {name} in {region}, {size}: billed until it is deleted"


def running_lines(ledger: Ledger, now: float) -> list[str]:
    """What is running and what it costs, as of our last contact with the cloud; nothing: no lines."""
    lines = [_running_line(m, now) for m in ledger.ours]
    known = [m for m in ledger.ours if not m.is_doubtful]
    if len(known) > 1:
        lines.append(f"Together: ${sum(m.usd_per_hour for m in known):.2f}/h")
    return lines


def _running_line(machine: LedgerMachine, now: float) -> str:
    """`Running: lambda · gpu_1x_a10 · us-west-1 · $1.29/h · up 42 min 3 s, $0.90 so far`."""
    what = f"{machine.alias} · {machine.type} · {machine.region} · ${machine.usd_per_hour:.2f}/h"
    if machine.is_doubtful:
        return f"Perhaps running: {machine.name} · {what}; to see: action=status"
    bound = machine.bound
    up = f"up {bound}{duration(now - machine.since)}, {bound}${machine.usd_until(now):.2f} so far"
    seen = datetime.fromtimestamp(machine.seen_at, UTC).strftime("%H:%M UTC")
    return f"Running: {what} · {up} ({machine.state} at {seen})"

"""The reports of doctor and of a run, for people."""

from runner.doctor.doctor import Doctor
from runner.doctor.job_rules import Diagnosis
from runner.report.pictures import label, shown, words
from runner.report.report import Report, margin
from runner.view.text import Paint, aligned, duration, report_text


@report_text.register
def _(report: Doctor, paint: Paint) -> str:
    looked = f" {report.looked_at}" if report.looked_at else ""
    if not report.diagnoses:
        return f"Nothing is wrong{f' with{looked}' if looked else ''}, as far as can be seen."
    return "\n\n".join(_diagnosis_text(diagnosis, paint) for diagnosis in report.diagnoses)


def _diagnosis_text(diagnosis: Diagnosis, paint: Paint) -> str:
    """What, how it shows, why, and what to type."""
    rows = [("evidence", diagnosis.evidence), ("cause", diagnosis.cause), ("remedy", diagnosis.remedy)]
    lines = [paint(diagnosis.symptom, "red", "bold"), *(f"  {label:<9} {value}" for label, value in rows)]
    return "\n".join(lines)


@report_text.register
def _(report: Report, paint: Paint) -> str:
    title = paint(f"{report.phase} · {report.run}", "bold")
    finished = f"{len(report.finished)} of {len(report.members)} members finished"
    ended = "not ended yet" if report.job_exit_code is None else f"exit code {report.job_exit_code}"
    lines = [f"{title} · {finished if report.members else ended}", ""]
    lines += [f"  {words(name):<20} {points[-1][1]:.4g} at the end" for name, points in report.curves.items()]
    if report.members:
        lines += [*_table(report, paint), ""]
    if (best := report.best) and report.judge:
        half = margin(best, report.judge)
        within = f" ± {half:.3f} (95 %)" if half is not None else ""
        judged = f"{best.figures[report.judge]:.3f}{within}"
        lines.append(f"  best      {words(report.judge)} {judged}: {label(best, report.axes)}")
    if report.members:
        took = f"{report.load_s:.1f} s loading, {report.generation_s:.1f} s generating"
        lines.append(f"  time      {took}")
    if report.seconds is not None:
        price = f"${report.usd:.2f} on {report.machine}"
        lines.append(f"  run       {duration(report.seconds)} in all, {price}")
    return "\n".join([*lines, *([f"  log       {report.log}"] if report.log else [])])


def _table(report: Report, paint: Paint) -> list[str]:
    """A row a member, a column for every axis and figure."""
    known = {name for member in report.finished for name in member.figures}
    names = [*report.quality, *(n for n in ("samples_per_second", "generation_seconds") if n in known)]
    head = ("member", *report.axes, *map(words, names), "")
    rows = [
        (
            str(member.number),
            *(shown(member.values.get(axis)) for axis in report.axes),
            *(f"{member.figures[n]:.3f}" if n in member.figures else "–" for n in names),
            "← best" if member is report.best else {"finished": ""}.get(member.state, _told(member.error)),
        )
        for member in report.members
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    first, *rest = (aligned(row, widths) for row in (head, *rows))
    return [paint(first, "bold"), *rest]


def _told(error: str | None) -> str:
    """Why a member has no figures."""
    return "missing" if error is None else f"failed: {error.splitlines()[0][:60]}"

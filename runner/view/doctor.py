"""Diagnoses for people; importing this module registers their text."""

from runner.verbs.diagnosis import Diagnosis
from runner.verbs.doctor import Doctor
from runner.view.text import Paint, report_text


@report_text.register
def _(report: Doctor, paint: Paint) -> str:
    looked = f" {report.looked_at}" if report.looked_at else ""
    if not report.diagnoses:
        return f"Nothing is wrong{f' with{looked}' if looked else ''}, as far as can be seen."
    return "\n\n".join(diagnosis_text(diagnosis, paint) for diagnosis in report.diagnoses)


def diagnosis_text(diagnosis: Diagnosis, paint: Paint) -> str:
    """What, how it shows, why, and what to type."""
    rows = [("evidence", diagnosis.evidence), ("cause", diagnosis.cause), ("remedy", diagnosis.remedy)]
    lines = [paint(diagnosis.symptom, "red", "bold"), *(f"  {label:<9} {value}" for label, value in rows)]
    return "\n".join(lines)

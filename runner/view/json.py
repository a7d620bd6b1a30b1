"""Plans and results for programs: one JSON document a line."""

import json
from typing import Any

from runner.plan.plan import Plan


def plan_document(plan: Plan) -> dict[str, Any]:
    """As runner.plan/1."""
    document: dict[str, Any] = {
        "format": "runner.plan/1",
        "digest": plan.digest,
        "action": plan.action,
        "phase": plan.phase,
        "effect": plan.effect.value,
        "instance": plan.target.document(),
        "run": plan.run,
        "reason": plan.reason,
        "notes": list(plan.notes),
        "monitor": plan.monitor,
        "steps": [step.document() for step in plan.steps],
    }
    if plan.members:
        document["members"] = [member.document() for member in plan.members]
        document["results"] = plan.results
    return document


def run_document(plan: Plan) -> dict[str, Any]:
    """The plan as its run keeps it, with what was typed for it."""
    return plan_document(plan) | {"arguments": list(plan.arguments)}


def to_json(document: dict[str, Any]) -> str:
    """One line; whatever a string holds, it is ASCII and no surrogate breaks a pipe."""
    return json.dumps(document, ensure_ascii=True)

"""A plan as a bash script that does the same without the runner."""

from runner.errors import Refused
from runner.plan.command import quote
from runner.plan.plan import Effect, Plan
from runner.view.json import plan_document, to_json

HEAD = """#!/usr/bin/env bash
# Plan {digest}: {title}
# Does what `confirm={digest}` would do, without the runner. It has no guard: run it once.
set -euo pipefail
"""


def plan_script(plan: Plan) -> str:
    """The script. Refused (77) for what pays or destroys, because a script has no guard."""
    if plan.effect in (Effect.PAY, Effect.DESTROY):
        raise Refused(
            f"{plan.action} is not given as a script: a script has no guard against paying or losing twice",
            "Run it with confirm=<digest>.",
        )
    title = " ".join(part for part in (plan.action, plan.phase, plan.run) if part)
    lines = [HEAD.format(digest=plan.digest, title=title)]
    if plan.run_folder:
        lines += claim_lines(plan, plan.run_folder)
    lines.append("code=0")
    for step in plan.steps:
        lines.append(f"\n# {step.name}")
        lines.append(f"{step.command} || code=$?" if step.carries_on else step.command)
    return "\n".join([*lines, "", 'exit "$code"', ""])


def claim_lines(plan: Plan, folder: str) -> list[str]:
    """Take the run's number, or stop when somebody has it, and leave the plan there."""
    document = quote(to_json(plan_document(plan)))
    return [
        f"mkdir -p {quote(folder.rpartition('/')[0])}",
        f"mkdir {quote(folder)} || exit 77 # this run was started before",
        f"printf '%s\\n' {document} > {quote(folder + '/plan.json')}",
    ]

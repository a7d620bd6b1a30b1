"""What came of a plan."""

from dataclasses import dataclass
from typing import Any

from runner.plan.plan import Plan


@dataclass(frozen=True)
class StepResult:
    """How a step went."""

    name: str
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class PlanResult:
    """How a plan went. `log` is the run's log here; `artifacts` those that are there now.

    `last_lines` are what the step that failed said last.
    """

    plan: Plan
    exit_code: int
    steps: tuple[StepResult, ...]
    log: str | None = None
    artifacts: tuple[str, ...] = ()
    last_lines: tuple[bytes, ...] = ()

    def document(self) -> dict[str, Any]:
        """As runner.result/1."""
        return {
            "format": "runner.result/1",
            "digest": self.plan.digest,
            "run": self.plan.run,
            "ok": self.exit_code == 0,
            "exit_code": self.exit_code,
            "steps": [
                {"name": step.name, "exit_code": step.exit_code, "seconds": round(step.seconds, 3)}
                for step in self.steps
            ],
            "log": self.log,
            "artifacts": list(self.artifacts),
        }

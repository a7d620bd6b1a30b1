"""What came of a plan."""

from dataclasses import dataclass
from typing import Any

from runner.plan.plan import Plan
from runner.plan.settings import LOCAL


@dataclass(frozen=True)
class StepResult:
    """How a step went."""

    name: str
    exit_code: int
    seconds: float


@dataclass(frozen=True)
class FailedMember:
    """A member of a sweep that left an error: what it said, and whether memory was short."""

    number: int
    error: str
    exit_code: int
    out_of_memory: bool = False


@dataclass(frozen=True)
class MembersResult:
    """How many members of a sweep have a result, and which left an error instead."""

    num_finished: int
    failed: tuple[FailedMember, ...] = ()


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
    members: MembersResult | None = None

    @property
    def is_detached(self) -> bool:
        """Whether a person left a job that runs on: following it was interrupted, on another machine."""
        following = bool(self.steps) and self.steps[-1].name == "follow"
        return self.exit_code == 130 and following and self.plan.target.provider != LOCAL

    def document(self) -> dict[str, Any]:
        """As runner.result/1."""
        document: dict[str, Any] = {
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
        if self.last_lines and self.log is None:  # then they are nowhere else
            document["last_lines"] = [line.decode(errors="replace") for line in self.last_lines]
        if self.members is not None:
            failed = [{"member": f.number, "error": f.error} for f in self.members.failed]
            document["members"] = {"finished": self.members.num_finished, "failed": failed}
        return document

"""What will be done, as data with a digest, and what came of it; both with their JSON."""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from math import isfinite
from pathlib import PurePath
from typing import Any

from runner.plan.command import Command, quote
from runner.plan.settings import LOCAL, Settings, Value, script_text
from runner.plan.tools import Tool

DIGEST = re.compile(r"p[0-9a-f]{12}")
HERE = "here"


class Effect(StrEnum):
    """What an action does to the world, from nothing to what cannot be undone."""

    READ = "read"
    CHANGE = "change"
    PAY = "pay"
    DESTROY = "destroy"


@dataclass(frozen=True)
class Request:
    """One HTTP request to the cloud; the key is added by whoever sends it, never here."""

    method: str
    url: str
    json: Any = None

    @property
    def text(self) -> str:
        """The `curl` line that does the same, reading the key from $LAMBDA_API_KEY by a descriptor."""
        key = "-H @<(printf 'Authorization: Bearer %s' \"$LAMBDA_API_KEY\")"
        line = f"curl -fsS -X {self.method} {key} -H 'User-Agent: fractal-runner'"
        if self.json is not None:
            line += f" -H 'Content-Type: application/json' --data {quote(json.dumps(self.json))}"
        return f"{line} {quote(self.url)}"


@dataclass(frozen=True)
class WriteFile:
    """A file that is written whole or not at all, and only while what is there is as it was seen.

    `expects` is the sha256 of what is there, None for no file; without a `mode` the umask says who reads it.
    Bytes that are no text are in `text` as surrogates. Where it cannot be written, or somebody was faster,
    the step has failed; not where `otherwise` says what that means.
    """

    path: str
    text: str
    expects: str | None = None
    mode: int | None = None
    otherwise: str | None = None

    @property
    def content(self) -> bytes:
        """What will be in the file."""
        return self.text.encode(errors="surrogateescape")

    @property
    def num_lines(self) -> int:
        """Its lines, the last one also where nothing ends it."""
        return self.text.count("\n") + (not self.text.endswith("\n") and self.text != "")


@dataclass(frozen=True)
class Offer:
    """What an attempt would rent. Its price is part of the plan; that the cloud says one is free is not."""

    type: str
    region: str
    usd_per_hour: float
    is_free: bool = field(default=False, compare=False)

    def document(self) -> dict[str, Any]:
        """The offer as JSON."""
        return {"type": self.type, "region": self.region, "usd_per_hour": self.usd_per_hour}


@dataclass(frozen=True)
class Step:
    """One thing to do. `reason` tells a person what it is for and is not part of the digest.

    A step that `carries_on` is the job itself: when it fails the steps behind it are still taken
    (artifacts come home from a failed job too), and its exit code is the plan's.
    Of steps with an `attempt` (1, 2, …) the first that succeeds is the last that is taken.
    One that is taken `always` cleans up: it comes last, after a failure and after Ctrl-C too.
    """

    name: str
    action: Command | Request | WriteFile
    effect: Effect = Effect.CHANGE
    on: str = HERE
    reason: str = ""
    timeout_s: float | None = None
    carries_on: bool = False
    always: bool = False
    attempt: int | None = None
    offer: Offer | None = None
    tools: tuple[Tool, ...] = ()  # the files of ours that the command calls
    repeats: bool = False  # asked again while the link fails, since it does its work once

    @property
    def command(self) -> str:
        """What a person could paste to do the same; of a file its path."""
        return self.action.path if isinstance(self.action, WriteFile) else self.action.text

    def document(self) -> dict[str, Any]:
        """The step as JSON."""
        doc: dict[str, Any] = {
            "name": self.name,
            "effect": self.effect.value,
            "on": self.on,
            "command": self.command,
            "timeout_s": self.timeout_s,
        }
        if isinstance(self.action, Request):
            asked = self.action
            doc["request"] = {"method": asked.method, "url": asked.url, "json": asked.json}
        if isinstance(self.action, WriteFile):
            doc["file"] = {"path": self.action.path, "text": self.action.text}
        if self.attempt is not None:
            doc["attempt"] = self.attempt
        if self.offer is not None:
            doc |= self.offer.document()
        return doc

    def named(self) -> dict[str, Any]:
        """What the digest of a plan covers of it."""
        doc = self.document()
        if isinstance(self.action, WriteFile):
            doc["file"] |= {"expects": self.action.expects, "mode": self.action.mode}
        return doc


@dataclass(frozen=True)
class Target:
    """The machine a plan is for, as a plan names it. `type` is the cloud's, None for this machine."""

    name: str
    provider: str
    type: str | None = None
    usd_per_hour: float = 0.0

    def document(self) -> dict[str, Any]:
        """The target as JSON."""
        return {
            "name": self.name,
            "provider": self.provider,
            "type": self.type,
            "usd_per_hour": self.usd_per_hour,
        }


@dataclass(frozen=True)
class Member:
    """One member of a sweep: the overrides that make it, and which of the plan's processes runs it."""

    number: int
    overrides: tuple[str, ...]
    process: int

    def document(self) -> dict[str, Any]:
        """The member as JSON."""
        return {"overrides": list(self.overrides), "process": self.process}


@dataclass(frozen=True)
class Revision:
    """The commit the tree is at and the files of the phase that differ from it; no commit outside git."""

    commit: str | None
    changed: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The revision as JSON."""
        return {"commit": self.commit, "changed": list(self.changed)}


@dataclass(frozen=True)
class Plan:
    """What will be done, whole before the first effect.

    `basis` holds the facts the steps rest on (name, value): when one changes, so does the digest.
    `reason` says why there is nothing to do, or why it is `refused`. `details` (label, text), `values` (what
    the job is given), `code`, `notes`, `monitor`, `arguments` and `next` (what to type after success) are for
    the reader alone.
    For `wait_for_capacity_s` attempts that found nothing free are repeated. `observed` is what the world
    showed when the plan was made (name, state), to be compared once more right before what cannot be undone.
    """

    action: str
    effect: Effect
    target: Target
    steps: tuple[Step, ...]
    phase: str | None = None
    basis: tuple[tuple[str, str], ...] = ()
    run: str | None = None
    run_folder: str | None = None
    reason: str | None = None
    refused: bool = False
    details: tuple[tuple[str, str], ...] = ()
    values: tuple[tuple[str, Value], ...] = ()
    code: Revision | None = None
    notes: tuple[str, ...] = ()
    monitor: str | None = None
    artifacts: tuple[str, ...] = ()
    wait_for_capacity_s: float = 0.0
    next: str | None = None
    observed: tuple[tuple[str, str], ...] = ()
    members: tuple[Member, ...] = ()
    results: str | None = None  # the folder in which the members of a sweep leave theirs
    started_by: str | None = None  # of a plan that follows a run again: the digest that started it
    token: str = ""  # by which a machine tells this plan's run from another's of the same name

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The files of ours that the steps call, each once."""
        return tuple(dict.fromkeys(tool for step in self.steps for tool in step.tools))

    @property
    def calls(self) -> str:
        """Those files in words: what they are called, how long they are, and where they will be."""
        each = [f"{PurePath(tool.name).name} ({tool.num_lines:,} lines)" for tool in self.tools]
        return f"{' · '.join(each)}, in {PurePath(self.tools[0].name).parent}/" if each else ""

    @property
    def starts_run(self) -> bool:
        """Whether the run's folder is this plan's to make."""
        return self.run_folder is not None and self.started_by is None

    arguments: tuple[str, ...] = ()  # what was typed for a run, to type it again

    @property
    def digest(self) -> str:
        """`p` and 12 hex digits: the same for the same configuration and facts, anywhere and always."""
        named = {
            "action": self.action,
            "phase": self.phase,
            "instance": [self.target.name, self.target.type, self.target.usd_per_hour],
            "steps": [step.named() for step in self.steps],
            "basis": self.basis,
            "run": self.run,
        }
        canonical = json.dumps(named, sort_keys=True, separators=(",", ":"))
        return "p" + sha256(canonical.encode()).hexdigest()[:12]


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
        "refused": plan.refused,
        "notes": list(plan.notes),
        "monitor": plan.monitor,
        "values": {name: _json_value(value) for name, value in plan.values},
        "code": plan.code.document() if plan.code else None,
        "details": dict(plan.details) | ({"calls": plan.calls} if plan.tools else {}),
        "steps": [step.document() for step in plan.steps],
    }
    if plan.members:
        document["members"] = [member.document() for member in plan.members]
        document["results"] = plan.results
    return document


def _json_value(value: Value) -> Any:
    """A value as JSON has it; a number that JSON has not is the text that a script gets."""
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    return script_text(value) if isinstance(value, float) and not isfinite(value) else value


def run_document(plan: Plan) -> dict[str, Any]:
    """The plan as its run keeps it, with what was typed for it."""
    return plan_document(plan) | {"arguments": list(plan.arguments), "token": plan.token}


def to_json(document: dict[str, Any]) -> str:
    """One line; whatever a string holds, it is ASCII and no surrogate breaks a pipe."""
    return json.dumps(document, ensure_ascii=True)


def target_of(settings: Settings) -> Target:
    """The machine as plans name it."""
    instance = settings.instance
    if instance.is_local:
        return Target(instance.name, instance.provider)
    first = instance.types[0] if instance.types else None
    return Target(settings.alias, instance.provider, first, instance.usd_per_hour)

"""The verbs: what each is called, what it does to the world, and where its rules are."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from runner.facts.fact import Asking
from runner.plan.plan import Effect
from runner.plan.settings import Settings


@dataclass(frozen=True)
class Verb:
    """`rules` is `module:function` below runner.verbs, imported only when the verb is used.

    So is `words`: a function of the settings and the exit code that reads what the verb's plan left
    behind and says, a line each, what that means.
    """

    name: str
    effect: Effect
    summary: str
    rules: str
    words: str | None = None

    def ask(self, settings: Settings) -> Asking[Any]:
        """The verb's questions for these settings, and then its Plan or Report."""
        module, _, function = self.rules.partition(":")
        rules: Callable[[Settings], Asking[Any]] = getattr(import_module(f"runner.verbs.{module}"), function)
        return rules(settings)

    def say(self, settings: Settings, exit_code: int) -> tuple[str, ...]:
        """What came of the verb's plan, in words; nothing for most."""
        if self.words is None:
            return ()
        module, _, function = self.words.partition(":")
        words: Callable[[Settings, int], tuple[str, ...]] = getattr(
            import_module(f"runner.verbs.{module}"), function
        )
        return words(settings, exit_code)


VERBS = (
    Verb("discover", Effect.READ, "the phases, their states, and what to type next", "discover:discover"),
    Verb("sync", Effect.CHANGE, "the phase's code on the machine", "artifacts:sync"),
    Verb(
        "available",
        Effect.READ,
        "instance types, their price, and where they are free now",
        "available:available",
    ),
    Verb("launch", Effect.PAY, "a new machine under a name of ours", "launch:launch"),
    Verb("wait", Effect.READ, "blocks until ssh answers and CUDA works", "wait:wait"),
    Verb("setup-ssh", Effect.CHANGE, "`ssh lambda` works in every terminal", "setup_ssh:setup_ssh"),
    Verb("up", Effect.PAY, "launch, wait, setup-ssh, in one blocking call", "launch:up"),
    Verb("terminate", Effect.DESTROY, "the machine gone, after a verified backup", "terminate:terminate"),
    Verb(
        "status",
        Effect.READ,
        "machines, uptime, dollars so far and per hour, runs, idle GPUs",
        "status:status",
    ),
    Verb(
        "setup",
        Effect.CHANGE,
        "uv and the shared virtual environment, with the phase's packages",
        "environment:setup",
    ),
    Verb("run", Effect.CHANGE, "one command on the machine, logged like a job", "runs:run"),
    Verb("logs", Effect.READ, "follow a run's log until it ends; Ctrl-C only detaches", "runs:logs"),
    Verb("doctor", Effect.READ, "what went wrong, the evidence, and what mends it", "doctor:doctor"),
    Verb("stop", Effect.CHANGE, "stop a run, not the machine", "runs:stop"),
    Verb("report", Effect.READ, "a page with pictures of a sweep or a run, and its figures", "report:report"),
    Verb("backup", Effect.CHANGE, "the phase's artifacts here, verified by checksum", "artifacts:backup"),
    Verb(
        "preflight",
        Effect.CHANGE,
        "the phase's packages tested on this machine's CPU, then thrown away",
        "preflight:preflight",
        words="afterwards:words",
    ),
)


def verb_named(name: str) -> Verb | None:
    """The verb of this name."""
    return next((verb for verb in VERBS if verb.name == name), None)

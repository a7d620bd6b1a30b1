"""The verbs: what each is called, what it does to the world, and where its rules are."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from runner.facts.fact import Asking
from runner.plan.plan import Effect, Plan
from runner.plan.settings import Settings


@dataclass(frozen=True)
class Verb:
    """`rules` is `module:function` below runner.verbs, imported only when the verb is used.

    So is `words`: a function of the settings and the exit code that reads what the verb's plan left
    behind and says, a line each, what that means. `keys` are those of single verbs that it takes.
    `last_look` asks, right before the plan's first step, why it must not be taken after all.
    """

    name: str
    effect: Effect
    summary: str
    rules: str
    words: str | None = None
    keys: tuple[str, ...] = ()
    last_look: str | None = None

    def ask(self, settings: Settings) -> Asking[Any]:
        """The verb's questions for these settings, and then its Plan or Report."""
        rules: Callable[[Settings], Asking[Any]] = function(self.rules)
        return rules(settings)

    def look_again(self, settings: Settings, plan: Plan) -> Asking[str | None]:
        """What has changed since the plan was made and speaks against it; None for most."""
        if self.last_look is None:
            yield from ()
            return None
        rules: Callable[[Settings, Plan], Asking[str | None]] = function(self.last_look)
        return (yield from rules(settings, plan))

    def say(self, settings: Settings, exit_code: int) -> tuple[str, ...]:
        """What came of the verb's plan, in words; nothing for most."""
        if self.words is None:
            return ()
        words: Callable[[Settings, int], tuple[str, ...]] = function(self.words)
        return words(settings, exit_code)


def function(place: str) -> Any:
    """What `module:function` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"runner.verbs.{module}"), name)


# In the order of a machine's life, which is the order of --help.
READ, CHANGE, PAY, DESTROY = Effect.READ, Effect.CHANGE, Effect.PAY, Effect.DESTROY
OF_RUN = ("run", "lines")
OF_LAUNCH = ("wait_for_capacity", "budget_usd")
OF_JOB = ("run", "resume", "require_preflight")
VERBS = (
    Verb("discover", READ, "the phases, their states, and what to type next", "discover:discover"),
    Verb(
        *("preflight", CHANGE, "the phase's packages tried on this machine's CPU, thrown away"),
        *("preflight:preflight", "afterwards:words"),
    ),
    Verb("available", READ, "instance types, their price, where they are free", "available:available"),
    Verb("launch", PAY, "a new machine under a name of ours", "launch:launch", keys=OF_LAUNCH),
    Verb("wait", READ, "blocks until ssh answers and CUDA works", "wait:wait"),
    Verb("setup-ssh", CHANGE, "`ssh lambda` works in every terminal", "setup_ssh:setup_ssh"),
    Verb("up", PAY, "launch, wait, setup-ssh, in one blocking call", "launch:up", keys=OF_LAUNCH),
    Verb("sync", CHANGE, "the phase's code on the machine", "artifacts:sync"),
    Verb("setup", CHANGE, "uv and the shared environment, with the phase's packages", "environment:setup"),
    Verb("run", CHANGE, "one command='…' on the machine, logged like a job", "runs:run", keys=("command",)),
    Verb("status", READ, "machines, dollars so far and per hour, runs, idle GPUs", "status:status"),
    Verb("logs", READ, "follow a run's log until it ends; Ctrl-C only detaches", "runs:logs", keys=OF_RUN),
    Verb("stop", CHANGE, "stop a run, not the machine", "runs:stop", keys=OF_RUN),
    Verb("doctor", READ, "what went wrong, the evidence, and what mends it", "doctor:doctor", keys=OF_RUN),
    Verb("report", READ, "a page with pictures of a sweep or a run", "report:report", keys=OF_RUN),
    Verb("backup", CHANGE, "the phase's artifacts here, verified by checksum", "artifacts:backup"),
    Verb(
        "terminate",
        DESTROY,
        "the machine gone, after a verified backup",
        "terminate:terminate",
        keys=("discard",),
        last_look="terminate:last_look",
    ),
)


def verb_named(name: str) -> Verb | None:
    """The verb of this name."""
    return next((verb for verb in VERBS if verb.name == name), None)

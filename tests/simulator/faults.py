"""What goes wrong in the simulated cloud: rules that strike requests, launches and instances.

A rule is a `Fault`; as text `kind,probability=0.2,times=3,after=1,value=5,text=…,match=…`, in any
order after the kind. `match` is a regular expression. For faults of requests it is looked for in
"POST /instance-operations/launch" and the like, for faults of launches and instances in "TYPE REGION
NAME". Chance is seeded.
"""

from __future__ import annotations

import dataclasses
import random
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# kind: what happens
BEFORE = {  # a request, before it had any effect
    "slow": "the answer comes `value` seconds later",
    "lose-request": "the connection is closed before the request was heard",
    "rate-limit": "429 in the shape `text` (header date body text bare any), `value` (12) seconds",
    "server-error": "status `value` (502) with an HTML page; with text=json a 503 of the API's own",
    "cloudflare-1010": "403 `error code: 1010`",
    "invalid-key": "401",
    "account-inactive": "403",
    "invalid-address": "403",
    "forbidden": "403",
    "redirect": "302 to the same path on another host name",
}
AFTER = {  # a request that had its effect
    "lose-answer": "the connection is closed without an answer; with text=reset it is reset",
    "cut-answer": "half of the answer, then the connection is closed",
    "hang": "silence for `value` (600) seconds, then the connection is closed",
    "error-after": "the effect happened and the answer is status `value` (502) with an HTML page",
    "garbage": "200 with an HTML page",
}
LAUNCH = {
    "no-capacity": "refused, whatever the catalogue says",
    "quota": "refused",
}
INSTANCE = {
    "unhealthy": "comes up unhealthy, its sshd silent",
    "stuck-booting": "never becomes active; its sshd works",
    "silent-ssh": "becomes active, its sshd is never reached",
    "no-ip": "never has an ip",
    "no-private-ip": "never has a private_ip",
    "cuda-802": "its CUDA says error 802",
    "slow-boot": "each step of its start takes `value` (5) times as long",
    "slow-list": "is listed only after `value` (30) seconds",
    "unknown-status": "says `text` (provisioning) for the second half of its start",
    "preempted": "is preempted `value` (60) seconds after its start",
    "shut-down": "is shut down inside `value` (60) seconds after its start; billing goes on",
}
KINDS = BEFORE | AFTER | LAUNCH | INSTANCE


@dataclass(frozen=True)
class Fault:
    """One rule; `times` bounds how often it strikes, `after` lets so many occasions pass first."""

    kind: str
    match: str = ""
    probability: float = 1.0
    times: int | None = None
    after: int = 0
    value: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: choose from {', '.join(KINDS)}")
        re.compile(self.match)

    def number(self, default: float) -> float:
        """Return `value`, or the default when none was given."""
        return default if self.value is None else float(self.value)


def parse_fault(text: str) -> Fault:
    """Read a rule from text; ValueError says what is wrong with it."""
    kind, *words = text.split(",")
    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in _READERS:
            raise ValueError(f"{text!r}: {word!r} is not one of {', '.join(_READERS)} with =VALUE")
        values[name] = _READERS[name](value)
    return Fault(kind, **values)


_READERS = {
    "match": str,
    "probability": float,
    "times": int,
    "after": int,
    "value": float,
    "text": str,
}


class Faults:
    """The rules in force; safe to change while requests are served."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._rules: list[_Rule] = []
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """Put more rules in force."""
        with self._lock:
            self._rules += [_Rule(fault) for fault in faults]

    def clear(self) -> None:
        """Let nothing go wrong from now on."""
        with self._lock:
            self._rules = []

    def listed(self) -> list[dict[str, Any]]:
        """Return the rules, each with how often it has struck."""
        with self._lock:
            return [{**dataclasses.asdict(r.fault), "struck": r.struck} for r in self._rules]

    def strike(self, kinds: Iterable[str], subject: str) -> list[Fault]:
        """Return the rules of these kinds that strike now; each is asked once."""
        with self._lock:
            mine = [rule for rule in self._rules if rule.fault.kind in kinds]
            return [rule.fault for rule in mine if rule.strikes(subject, self._random)]

    def choose(self, choices: tuple[str, ...]) -> str:
        """Choose by seeded chance."""
        with self._lock:
            return self._random.choice(choices)


@dataclass
class _Rule:
    fault: Fault
    seen: int = 0
    struck: int = 0

    def strikes(self, subject: str, chance: random.Random) -> bool:
        fault = self.fault
        if not re.search(fault.match, subject):
            return False
        self.seen += 1
        spent = fault.times is not None and self.struck >= fault.times
        if spent or self.seen <= fault.after or chance.random() >= fault.probability:
            return False
        self.struck += 1
        return True

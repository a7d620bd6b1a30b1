"""How the simulated cloud behaves: waiting times, limits, which of its possible shapes it has."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Times are in simulated seconds: `scale` real seconds are one simulated second.

    What no source settles about the real cloud is a setting here, named after the question.
    """

    scale: float = 0.01
    # life of an instance, counted from the launch; defaults as measured on single-GPU machines
    ip_s: float = 25.0
    ssh_s: float = 60.0
    active_s: float = 120.0
    restart_s: float = 60.0
    terminating_s: float = 20.0
    # limits
    rate_limit: bool = True
    request_every_s: float = 1.0
    request_burst: int = 2
    launch_every_s: float = 12.0
    launch_burst: int = 1
    rate_limit_shape: str = "any"  # header, date, body, text, bare, any
    retry_after: str = "simulated"  # in which seconds it is told: simulated, real
    quota_instances: int | None = None
    quota_filesystems: int = 24
    # deployment: old leaves out newer fields, future adds unknown ones
    deployment: str = "current"  # old, current, future
    nulls: bool = False  # absent fields are null
    after_the_end: str = "terminated"  # GET of an instance that is gone: terminated, 404
    terminate_unknown: str = "404"  # several ids, one unknown: 404, partial
    terminate_booting: str = "allow"  # allow, refuse
    duplicate_key_names: str = "refuse"  # refuse, allow
    recycle_ips: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}={value!r}: choose from {', '.join(choices)}")
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale}: it must be positive")

    def changed(self, **changes: Any) -> Settings:
        """Return the settings with changes; ValueError names an unknown one."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"unknown setting {name!r}: choose from {', '.join(known)}")
        return dataclasses.replace(self, **changes)


CHOICES = {
    "rate_limit_shape": ("header", "date", "body", "text", "bare", "any"),
    "retry_after": ("simulated", "real"),
    "deployment": ("old", "current", "future"),
    "after_the_end": ("terminated", "404"),
    "terminate_unknown": ("404", "partial"),
    "terminate_booting": ("allow", "refuse"),
    "duplicate_key_names": ("refuse", "allow"),
}


class Clock:
    """Tells simulated seconds since the start; `advance` lets some pass at once."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self._start = time.monotonic()
        self._advanced_s = 0.0

    def now(self) -> float:
        return (time.monotonic() - self._start) / self.scale + self._advanced_s

    def advance(self, simulated_s: float) -> None:
        """Let time pass without waiting for it, for instance the hours of a long job."""
        self._advanced_s += simulated_s

    def real(self, simulated_s: float) -> float:
        """Return how long a simulated time really lasts."""
        return simulated_s * self.scale


class Bucket:
    """Lets `burst` requests pass at once and then one every `every_s` seconds."""

    def __init__(self, every_s: float, burst: int, now: float) -> None:
        self.every_s = every_s
        self.burst = burst
        self.tokens = float(burst)
        self.at = now

    def take(self, now: float) -> float:
        """Take one token and return 0, or return how many seconds are missing."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) / self.every_s)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) * self.every_s
        self.tokens -= 1
        return 0.0

"""The verb `doctor`: what went wrong, with evidence and remedy, an environment that drifted included."""

import re
import sys
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from runner.doctor.job_rules import Diagnosis, RunHealth, ask_health, diagnose, evidence_of
from runner.doctor.machine_rules import diagnose_machines, diagnose_no_answer
from runner.environment.passes import Lock, lock_of, pins_in
from runner.environment.requirements import distribution
from runner.environment.setup import overrides_for
from runner.errors import UsageError
from runner.jobs.job import Started, paths_of, started_run
from runner.machines.probe import SshAnswer
from runner.plan.command import SHIM, Command, Route, route_of, sh
from runner.plan.next_command import spell_next
from runner.plan.settings import LOCAL, Settings
from runner.research_log.runs import token_in
from runner.world.world import Asking, Fact, Result, documents_of


@dataclass(frozen=True)
class Drift:
    """What is not as it should be; all empty: nothing drifted."""

    differing: tuple[str, ...] = ()  # `torch 2.12.0 for 2.13.0`
    broken: tuple[str, ...] = ()  # what `uv pip check` says, a line each
    was_changed: bool = False  # by somebody else since the last setup

    @property
    def is_none(self) -> bool:
        """Whether all is as it was installed."""
        return not (self.differing or self.broken or self.was_changed)


def read_drift(result: Result, lock: Lock | None, overridden: tuple[str, ...] = ()) -> Drift | None:
    """From what uv says is installed, whether it fits together, and the sum that the last setup left.

    None when there is no environment or no answer. Nobody misses the packages that setup has `overridden`.
    """
    documents = documents_of(result)
    if not documents or documents[0]["frozen"] is None:
        return None
    (told,) = documents
    frozen, installed = told["frozen"], told["installed"]
    return Drift(
        differing=_differing(dict(pins_in(frozen)), lock.pins if lock else ()),
        broken=tuple(line for line in told["checked"].splitlines() if _is_broken(line, overridden)),
        was_changed=bool(installed) and installed != sha256(frozen.encode()).hexdigest(),
    )


def _is_broken(line: str, overridden: tuple[str, ...]) -> bool:
    """Whether `uv pip check` complains of what setup did not override."""
    match = re.match(r"The package `[^`]+` requires `([^`]+)`", line)
    return line.startswith("The package ") and not (match and distribution(match[1]) in overridden)


def _differing(installed: dict[str, str], pins: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """What the lock names and the environment has otherwise, or not at all."""
    return tuple(
        f"{name} {installed.get(name, 'missing')} for {version}"
        for name, version in pins
        if installed.get(name) != version
    )


_NUM_SHOWN = 5


def _drift(settings: Settings) -> Asking[tuple[Diagnosis, ...]]:
    """Nothing where no environment is."""
    if settings.phase is None:
        return ()
    lock = lock_of(settings, settings.phase)
    overridden = tuple(map(distribution, overrides_for(settings, settings.phase)))
    ask = _here(settings) if settings.instance.is_local else _there(settings)
    found: Drift | None = yield Fact(ask, lambda result: read_drift(result, lock, overridden))
    if found is None or found.is_none:
        return ()
    return (_diagnosis(settings, found),)


def _here(settings: Settings) -> Command:
    """About the environment of this machine."""
    from uv import find_uv_bin

    words = ("packages", str(settings.paths.venv), "--uv", find_uv_bin())
    return sh(sys.executable, SHIM, "--root", settings.paths.root, *words)


def _there(settings: Settings) -> Command:
    """About the machine's."""
    return route_of(settings).question(settings.remote.root, "packages", settings.remote.venv)


def _diagnosis(settings: Settings, found: Drift) -> Diagnosis:
    """One for all of it: setup mends it."""
    shown = (*found.differing, *found.broken)
    more = f" and {len(shown) - _NUM_SHOWN} more" if len(shown) > _NUM_SHOWN else ""
    changed = "its packages are not those that the last setup left"
    return Diagnosis(
        symptom="the shared environment has drifted",
        evidence="; ".join(shown[:_NUM_SHOWN]) + more or changed,
        cause="another phase's setup, or an install by hand, changed what this phase was tested with",
        remedy=spell_next(settings, "setup"),
    )


@dataclass(frozen=True)
class Doctor:
    """The report of `doctor`; `looked_at` says of what."""

    diagnoses: tuple[Diagnosis, ...]
    looked_at: str = ""

    def document(self) -> dict[str, Any]:
        """As runner.doctor/1."""
        return {"format": "runner.doctor/1", "diagnoses": [vars(d) for d in self.diagnoses]}


def doctor(settings: Settings) -> Asking[Doctor]:
    """Of the run that is meant (the newest, if none is named), and of what others know to look at.

    That a machine does not answer is reported only if no other rule explains it.
    """
    found, silent, looked_at = yield from _diagnose_run(settings)
    more: tuple[Diagnosis, ...] = ()
    for ask in (_drift, diagnose_machines):
        more += yield from ask(settings)
    return Doctor(found + (more or silent), looked_at)


def _diagnose_run(settings: Settings) -> Asking[tuple[tuple[Diagnosis, ...], tuple[Diagnosis, ...], str]]:
    """What is wrong with the run; whether its machine is silent; its name."""
    try:
        started = started_run(settings)
    except UsageError:
        if settings.run:
            raise
        return (), (), ""
    seen: RunHealth | None = None
    silent: tuple[Diagnosis, ...] = ()
    if started.target.provider != LOCAL:
        route = Route(started.target.name, None if settings.ssh.is_default else settings.ssh.config)
        folder, token = str(paths_of(settings, started).folder), token_in(started.folder)
        told: RunHealth | SshAnswer = yield ask_health(route, settings.remote.root, folder, token)
        if isinstance(told, SshAnswer):
            silent = (_no_answer(settings, started, told),)
        else:
            seen = told
    return diagnose(evidence_of(settings, started.folder, seen)), silent, started.name


def _no_answer(settings: Settings, started: Started, told: SshAnswer) -> Diagnosis:
    """The machine of the run cannot be reached by its name, or does not answer to what it is asked."""
    return diagnose_no_answer(started.target.name, told) or Diagnosis(
        "the machine does not answer",
        f"ssh {started.target.name}: {told.said[-300:]}",
        "its address changed, it is gone, or the network is down; a run on it goes on, and so does its price",
        spell_next(settings, "setup-ssh"),
    )

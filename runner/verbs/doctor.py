"""doctor: what went wrong, the evidence for it, its cause, and the exact command that mends it."""

from dataclasses import dataclass
from typing import Any

from runner.errors import UsageError
from runner.facts.fact import Asking
from runner.facts.health import Seen, ask_health
from runner.facts.run import token_in
from runner.plan.route import Route
from runner.plan.settings import LOCAL, Settings
from runner.verbs.diagnosis import Diagnosis
from runner.verbs.drift import drift
from runner.verbs.evidence import evidence_of
from runner.verbs.job_rules import diagnose
from runner.verbs.machine_rules import of_machines
from runner.verbs.own_line import own_line
from runner.verbs.runs import Started, paths_of, started_run


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

    That a machine does not answer is said by itself only where nobody knows why.
    """
    found, silent, looked_at = yield from of_run(settings)
    more: tuple[Diagnosis, ...] = ()
    for ask in (drift, of_machines):
        more += yield from ask(settings)
    return Doctor(found + (more or silent), looked_at)


def of_run(settings: Settings) -> Asking[tuple[tuple[Diagnosis, ...], tuple[Diagnosis, ...], str]]:
    """What is wrong with the run; whether its machine is silent; its name."""
    try:
        started = started_run(settings)
    except UsageError:
        if settings.run:
            raise
        return (), (), ""
    seen: Seen | None = None
    silent: tuple[Diagnosis, ...] = ()
    if started.target.provider != LOCAL:
        route = Route(started.target.name, None if settings.ssh.is_default else settings.ssh.config)
        folder, token = str(paths_of(settings, started).folder), token_in(started.folder)
        seen = yield ask_health(route, settings.remote.root, folder, token)
        silent = () if seen else (no_answer(settings, started),)
    return diagnose(evidence_of(settings, started.folder, seen)), silent, started.name


def no_answer(settings: Settings, started: Started) -> Diagnosis:
    """The machine of the run cannot be reached by its name."""
    return Diagnosis(
        "the machine does not answer",
        f"ssh {started.target.name}: exit code 255",
        "its address changed, it is gone, or the network is down; a run on it goes on, and so does its price",
        own_line(settings, "setup-ssh"),
    )

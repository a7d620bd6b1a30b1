"""Which runs were started on a machine, as far as this computer knows: a machine may not answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from runner.facts.health import was_started
from runner.facts.lambda_cloud import Rented
from runner.facts.ledger import Ledger, Machine
from runner.plan.settings import Settings
from runner.verbs.rented import alias_for

# A clock may have been wrong when the machine was asked for, or when the run began. Too early a bound only
# asks a person once more; too late a one takes a machine with work on it for an empty one.
CLOCK_SLACK_S = 24 * 3600.0


@dataclass(frozen=True)
class Names:
    """What a machine is or was called. `own` mean it alone; an `alias` was another machine's before."""

    own: frozenset[str]
    aliases: frozenset[str]


def was_asked_for_here(ledger: Ledger, machine: Rented) -> bool:
    """Whether our own request for it is on record, so that no run of ours can be older than the record.

    A ledger that was rebuilt from the cloud's list, and one of another computer, hold no such request.
    """
    known = ledger.by_id(machine.id)
    return known is not None and known.was_asked_for


def recorded_runs(settings: Settings, machine: Rented, ledger: Ledger) -> list[Path]:
    """The folders here of runs that were, or may have been, started on this machine."""
    names = names_of(settings, machine, ledger.by_id(machine.id))
    log = settings.paths.research_log
    plans = [*sorted(log.glob("runs/*/plan.json")), *sorted(log.glob("*/runs/*/plan.json"))]
    told = {plan.parent for plan in plans if may_be_of(plan, names, machine, ledger)}
    return sorted(told | set(runs_in_ledger(names, ledger.by_id(machine.id))))


def runs_in_ledger(names: Names, known: Machine | None) -> list[Path]:
    """Those that the ledger tells of since the machine was asked for: of any research log, by any clock."""
    called = names.own | names.aliases
    folders = [Path(run.folder) for run in (known.runs if known else ()) if run.name in called]
    return [folder for folder in folders if was_started(folder)]


def names_of(settings: Settings, machine: Rented, known: Machine | None) -> Names:
    """All of them: it may have been renamed in the console, or reached by its address."""
    own = {machine.id, machine.name, machine.ip, *((known.name, known.ip) if known else ())}
    aliases = {alias_for(settings, machine), *((known.alias,) if known else ())}
    return Names(frozenset(name for name in own if name), frozenset(aliases))


def may_be_of(plan: Path, names: Names, machine: Rented, ledger: Ledger) -> bool:
    """Whether this run may have been started on the machine; a plan that cannot be read may be its."""
    try:
        at = plan.stat().st_mtime
        instance = json.loads(plan.read_text())["instance"]
        name, is_local = instance["name"], instance["provider"] == "local"
    except (OSError, ValueError, KeyError, TypeError):
        return True
    if is_local or not was_started(plan.parent):
        return False
    return name in names.own or (name in names.aliases and is_of_its_time(at, name, machine, ledger))


def is_of_its_time(at: float, alias: str, machine: Rented, ledger: Ledger) -> bool:
    """Whether a run that began then can be of this machine, rather than of an earlier one of the alias."""
    known = ledger.by_id(machine.id)
    since = known.since if known else float("inf")
    if at >= since:
        return True
    earlier = (m for m in ledger.machines if m.id not in (None, machine.id) and m.alias == alias)
    if any(m.until is not None and m.since <= at <= m.until for m in earlier):
        return False
    return known is None or at >= since - CLOCK_SLACK_S

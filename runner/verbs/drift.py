"""doctor's look at the shared environment of a rented machine: whether it still is what setup made."""

from runner.facts.drift import Drift, ask_drift
from runner.facts.fact import Asking
from runner.facts.preflights import lock_of
from runner.plan.command import home_or_path
from runner.plan.route import route_of
from runner.plan.settings import Settings
from runner.verbs.doctor import Diagnosis
from runner.verbs.own_line import own_line

NUM_SHOWN = 5


def drift(settings: Settings) -> Asking[tuple[Diagnosis, ...]]:
    """Nothing for this machine, where setup itself looks, nor where no environment is."""
    if settings.instance.is_local or settings.phase is None:
        return ()
    lock = lock_of(settings, settings.phase)
    places = (home_or_path(settings.remote.root), home_or_path(settings.remote.venv))
    found: Drift | None = yield ask_drift(route_of(settings), *places, lock)
    if found is None or found.is_none:
        return ()
    return (diagnosis(settings, found),)


def diagnosis(settings: Settings, found: Drift) -> Diagnosis:
    """One for all of it: setup mends it."""
    shown = (*found.differing, *found.broken)
    more = f" and {len(shown) - NUM_SHOWN} more" if len(shown) > NUM_SHOWN else ""
    changed = "its packages are not those that the last setup left"
    return Diagnosis(
        symptom="the shared environment has drifted",
        evidence="; ".join(shown[:NUM_SHOWN]) + more or changed,
        cause="another phase's setup, or an install by hand, changed what this phase was tested with",
        remedy=own_line(settings, "setup"),
    )

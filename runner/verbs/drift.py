"""doctor's look at the shared environment, here or on a machine: whether it still is what setup made."""

from runner.facts.drift import Drift, ask_drift, read_drift
from runner.facts.fact import Asking, Fact
from runner.facts.packages import distribution
from runner.facts.preflights import lock_of
from runner.plan.command import Command, home_or_path
from runner.plan.route import route_of
from runner.plan.settings import Settings
from runner.verbs.diagnosis import Diagnosis
from runner.verbs.installing import overrides_for
from runner.verbs.own_line import own_line

NUM_SHOWN = 5


def drift(settings: Settings) -> Asking[tuple[Diagnosis, ...]]:
    """Nothing where no environment is."""
    if settings.phase is None:
        return ()
    lock = lock_of(settings, settings.phase)
    overridden = tuple(map(distribution, overrides_for(settings, settings.phase)))
    ask = here(settings) if settings.instance.is_local else there(settings)
    found: Drift | None = yield Fact(ask, lambda result: read_drift(result, lock, overridden))
    if found is None or found.is_none:
        return ()
    return (diagnosis(settings, found),)


def here(settings: Settings) -> Command:
    """About the environment of this machine."""
    from uv import find_uv_bin

    return ask_drift(settings.paths.root, settings.paths.venv, find_uv_bin())


def there(settings: Settings) -> Command:
    """About the machine's."""
    places = (home_or_path(settings.remote.root), home_or_path(settings.remote.venv))
    return route_of(settings).ask(ask_drift(*places))


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

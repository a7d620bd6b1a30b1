"""available: what can be rented now, at what price, where."""

from dataclasses import dataclass
from typing import Any

from runner.facts.fact import Asking
from runner.facts.lambda_cloud import InstanceType, list_types
from runner.plan.settings import Settings
from runner.verbs.rented import rent_line


@dataclass(frozen=True)
class Available:
    """The types by price; `preferred` are those of the instance that was chosen, in its order."""

    types: tuple[InstanceType, ...]
    preferred: tuple[str, ...]
    max_usd_per_hour: float | None
    launch: str  # the command line that rents one

    def document(self) -> dict[str, Any]:
        """As runner.available/1."""
        return {
            "format": "runner.available/1",
            "types": [
                {
                    "name": kind.name,
                    "gpu": kind.gpu,
                    "gpus": kind.num_gpus,
                    "memory_gib": kind.memory_gib,
                    "architecture": kind.architecture,
                    "usd_per_hour": kind.usd_per_hour,
                    "regions": list(kind.regions),
                    "preferred": kind.name in self.preferred,
                }
                for kind in self.types
            ],
        }


def available(settings: Settings) -> Asking[Available]:
    """One question to the cloud. Prices are the cloud's of this moment, never the YAML's."""
    types = yield list_types(settings.base_url)
    instance = settings.instance
    return Available(types, instance.types, instance.max_usd_per_hour, rent_line(settings))

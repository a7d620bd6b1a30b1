"""status: every machine of the account, what it does, what it costs; the ledger learns what is new."""

from dataclasses import dataclass
from typing import Any

from runner.errors import RunnerError
from runner.facts.fact import Asking
from runner.facts.lambda_cloud import Filesystem, Rented, list_filesystems
from runner.facts.ledger import Machine
from runner.facts.probe import Inside, ask_inside
from runner.plan.settings import Settings
from runner.verbs.rented import OTHER_KEY, Seen, alias_for, look_and_record, other_key_hints


@dataclass(frozen=True)
class InstanceStatus:
    """One machine. Uptime and dollars count from its launch, or from when it was first seen: then `bound`."""

    alias: str
    instance: Rented
    is_ours: bool
    up_s: float
    usd_so_far: float
    inside: Inside | None
    bound: str = ""  # "≥ " when nobody here saw its launch

    @property
    def idle_s(self) -> float | None:
        """For how long nothing ran on it; None where nobody can look."""
        return min(self.inside.idle_s, self.up_s) if self.inside else None

    def document(self) -> dict[str, Any]:
        """As JSON; `name` is what ssh and machine= understand."""
        gpu = self.inside.gpu_percent if self.inside else None
        return {
            "name": self.alias if self.is_ours else self.instance.name,
            "id": self.instance.id,
            "cloud_name": self.instance.name,
            "type": self.instance.type,
            "region": self.instance.region,
            "ip": self.instance.ip,
            "state": self.instance.status,
            "ours": self.is_ours,
            "usd_per_hour": self.instance.usd_per_hour,
            "up_s": round(self.up_s),
            "usd_so_far": round(self.usd_so_far, 4),
            "at_least": bool(self.bound),
            "idle_s": None if self.idle_s is None else round(self.idle_s),
            "gpu_percent": gpu,
            "runs": [run.document(gpu) for run in self.inside.runs] if self.inside else [],
        }


@dataclass(frozen=True)
class Status:
    """All machines, those whose launch nobody answered, and the storage that is billed."""

    instances: tuple[InstanceStatus, ...]
    doubtful: tuple[Machine, ...]
    elsewhere: tuple[Machine, ...]  # those of them that another key's list would show
    filesystems: tuple[Filesystem, ...]
    usd_this_month: float
    bound_this_month: str
    warnings: tuple[str, ...]

    @property
    def usd_per_hour(self) -> float:
        """What runs now."""
        return sum((i.instance.usd_per_hour for i in self.instances), 0.0)

    @property
    def usd_so_far(self) -> float:
        """What those that run have cost."""
        return sum((i.usd_so_far for i in self.instances), 0.0)

    @property
    def bound(self) -> str:
        """What goes before the sum: "≥ " when one of its parts is a lower bound."""
        return next((i.bound for i in self.instances if i.bound), "")

    def document(self) -> dict[str, Any]:
        """As runner.status/1."""
        return {
            "format": "runner.status/1",
            "instances": [i.document() for i in self.instances],
            "usd_per_hour": round(self.usd_per_hour, 4),
            "usd_so_far": round(self.usd_so_far, 4),
            "usd_this_month": round(self.usd_this_month, 4),
            "uncertain": [m.name for m in self.doubtful],
            "filesystems": [
                {"name": f.name, "region": f.region, "in_use": f.is_in_use, "bytes_used": f.bytes_used}
                for f in self.filesystems
            ],
            "warnings": list(self.warnings),
        }


def status(settings: Settings) -> Asking[Status]:
    """Ask the cloud, then each machine of ours that has an address."""
    seen = yield from look_and_record(settings)
    rows = []
    for instance in seen.alive:
        row = yield from status_of(settings, seen, instance)
        rows.append(row)
    filesystems: tuple[Filesystem, ...] = ()
    warnings = ledger_warnings(settings, seen) + other_key_warnings(settings, seen)
    try:
        filesystems = yield list_filesystems(settings.base_url)
    except RunnerError as error:
        warnings += (f"filesystems are not known: {error.message}",)
    warnings += tuple(drift_warning(row) for row in rows if row.inside and row.inside.has_drifted)
    month = seen.ledger.usd_this_month(seen.now)
    bound = seen.ledger.bound_this_month()
    return Status(tuple(rows), seen.doubtful(), seen.elsewhere(), filesystems, month, bound, warnings)


def status_of(settings: Settings, seen: Seen, instance: Rented) -> Asking[InstanceStatus]:
    """One row; only machines of ours are asked over ssh."""
    machine = seen.ledger.by_id(instance.id)
    is_ours = bool(machine and machine.is_ours)
    inside = None
    if is_ours and instance.ip:
        inside = yield ask_inside(settings, instance)
    since = machine.since if machine else seen.now
    dollars = machine.usd_until(seen.now) if machine else 0.0
    bound = machine.bound if machine else "≥ "
    alias = alias_for(settings, instance)
    up_s = max(0.0, seen.now - since)  # it may have been seen for the first time just now
    return InstanceStatus(alias, instance, is_ours, up_s, dollars, inside, bound)


def drift_warning(row: InstanceStatus) -> str:
    """That somebody changed the packages there, and who can say which."""
    return (
        f"{row.alias}: the packages of its shared environment are not those that the last setup left; "
        "action=doctor with the phase says which"
    )


def other_key_warnings(settings: Settings, seen: Seen) -> tuple[str, ...]:
    """Of each machine that this key cannot see, what it costs and what to do."""
    return tuple(
        f"{m.name} (${m.usd_per_hour:.2f}/h) was {OTHER_KEY}. {'. '.join(other_key_hints(settings, m))}"
        for m in seen.elsewhere()
    )


def ledger_warnings(settings: Settings, seen: Seen) -> tuple[str, ...]:
    """That the ledger was damaged, and what was done about it."""
    if not seen.ledger.num_unreadable:
        return ()
    where = settings.paths.shown(settings.paths.state)
    num = seen.ledger.num_unreadable
    return (
        f"{num} line{'s' * (num != 1)} of {where}/ledger.jsonl cannot be read; the file is kept aside there "
        "at the next entry, and what runs is taken from the cloud's list",
    )

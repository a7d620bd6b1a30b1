"""The verbs `wait` and `status`: whether a machine is usable, what it does and what it costs."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from runner.errors import CheckFailed, RunnerError, TryLater, UsageError
from runner.machines.fleet import (
    NUM_MISSES,
    OTHER_KEY,
    Fleet,
    alias_for,
    find_machine,
    list_and_record,
    other_key_hints,
    rent_line,
)
from runner.machines.lambda_api import FAILED, CloudInstance, Filesystem, list_filesystems
from runner.machines.ledger import LedgerMachine
from runner.machines.probe import (
    NOT_REACHED,
    Activity,
    Cuda,
    MachineContents,
    SshAnswer,
    ask_contents,
    ask_cuda,
    ask_inside,
    ask_reach,
    direct_question,
    is_cuda_wanted,
)
from runner.plan.next_command import spell_next
from runner.plan.settings import Settings
from runner.world.world import Asking, Pause, Record

_POLL_S = 5.0
_CUDA_PATIENCE_S = 90.0  # the driver may be a little later than sshd; error 802 after that stays


@dataclass(frozen=True)
class Waited:
    """A machine that can be worked on."""

    alias: str
    instance: CloudInstance
    seconds: float
    usd_so_far: float
    cuda: Cuda | None
    next: str

    def document(self) -> dict[str, Any]:
        """As runner.wait/1."""
        return {
            "format": "runner.wait/1",
            "name": self.alias,
            "id": self.instance.id,
            "type": self.instance.type,
            "region": self.instance.region,
            "ip": self.instance.ip,
            "cuda": self.cuda.code if self.cuda else None,
            "seconds": round(self.seconds, 1),
            "usd_so_far": round(self.usd_so_far, 4),
            "next": self.next,
        }


@dataclass(frozen=True)
class _BootState:
    """How far a machine has come."""

    instance: CloudInstance
    reach: SshAnswer | None = None
    cuda: Cuda | None = None
    reached_at: float | None = None
    num_misses: int = 0
    trouble: str = ""


def wait(settings: Settings) -> Asking[Waited]:
    """Ask the cloud, then ssh, then CUDA, until all are well, one failed for good, or time is up."""
    seen = yield from _first_sight(settings)
    started, boot = seen.now, _BootState(find_machine(settings, seen))
    while True:
        boot = yield from _look_inside(settings, boot, seen.now)
        check_alive(settings, boot.instance)
        if boot.reach and boot.reach.answered and (boot.cuda is None or boot.cuda.works):
            yield from _remember_home(settings, seen, boot.instance)
            return _waited(settings, seen, boot, started)
        _check_cuda(settings, boot, seen.now)
        _check_time(settings, seen, boot, started)
        yield Pause(_POLL_S, _progress(settings, seen, boot))
        seen, boot = yield from _look_again(settings, seen, boot)


def _remember_home(settings: Settings, seen: Fleet, machine: CloudInstance) -> Asking[None]:
    """What the home folder holds before any job: whatever comes later keeps the machine from its end."""
    known = seen.ledger.by_id(machine.id)
    if known is None or known.home is not None:
        return
    question = partial(direct_question, settings, machine, settings.remote.root)
    held: MachineContents | None = yield ask_contents(question, settings.remote.venv, only_stamps=True)
    if held is not None and not held.runs and not held.files:
        yield Record.of("home", id=machine.id, holds={entry.name: entry.stamp for entry in held.home})


def _first_sight(settings: Settings) -> Asking[Fleet]:
    """The list, asked for again while a launch of ours may still come up in it."""
    while True:
        seen = yield from list_and_record(settings)
        doubtful = [m for m in seen.unconfirmed() if m not in seen.on_another_account()]
        listed = any(m.id in {i.id for i in seen.alive} for m in seen.ledger.ours)
        if not doubtful or listed or settings.machine not in (None, doubtful[0].alias, doubtful[0].name):
            return seen
        yield Pause(_POLL_S, f"{doubtful[0].name} was asked for and is not in the list yet")


def _look_again(settings: Settings, seen: Fleet, boot: _BootState) -> Asking[tuple[Fleet, _BootState]]:
    """What the list shows now; a cloud that does not answer is waited for, like everything else."""
    try:
        seen = yield from list_and_record(settings)
    except UsageError:
        raise
    except RunnerError as error:
        return seen, replace(boot, trouble=error.message)
    now = next((i for i in seen.instances if i.id == boot.instance.id), None)
    if now is not None:
        return seen, replace(boot, instance=now, num_misses=0, trouble="")
    boot = replace(boot, num_misses=boot.num_misses + 1, trouble="the cloud's list does not show it")
    if boot.num_misses >= NUM_MISSES:
        yield Record.of("gone", id=boot.instance.id)
        boot = replace(boot, instance=replace(boot.instance, status="terminated"))
    return seen, boot


def _look_inside(settings: Settings, boot: _BootState, now: float) -> Asking[_BootState]:
    """ssh, once there is an address; then CUDA, where there should be one."""
    machine = boot.instance
    if machine.ip is None or machine.status in FAILED:
        return boot
    reach: SshAnswer = yield ask_reach(settings, machine)
    if not reach.answered:
        return replace(boot, reach=reach)
    reached_at = boot.reached_at if boot.reached_at is not None else now
    boot = replace(boot, reach=reach, reached_at=reached_at)
    if not is_cuda_wanted(settings, machine):
        return boot
    cuda: Cuda | None = yield ask_cuda(settings, machine)
    if cuda is None:  # it was not said that nothing works: the link was lost between two questions
        return replace(boot, reach=SshAnswer(False, exit_code=NOT_REACHED))
    return replace(boot, cuda=cuda)


def check_alive(settings: Settings, machine: CloudInstance) -> None:
    """CheckFailed for a machine that will never be of use, with what to do about its bill."""
    if machine.status not in FAILED:
        return
    name = machine.name or machine.id
    if machine.status in ("terminated", "terminating"):
        raise CheckFailed(
            f"{name} is {machine.status}: it was ended elsewhere, and is billed no longer",
            f"Another: {rent_line(settings)}",
        )
    raise CheckFailed(
        f"{name} is {machine.status}, will never be usable, and is billed at ${machine.usd_per_hour:.2f}/h",
        f"End it: {spell_next(settings, 'terminate', machine=machine.name or machine.id)}",
        f"Then another: {rent_line(settings)}",
    )


def _check_cuda(settings: Settings, boot: _BootState, now: float) -> None:
    """CheckFailed when the GPU had its time and still does not compute."""
    cuda, machine = boot.cuda, boot.instance
    patience = _CUDA_PATIENCE_S * settings.time_scale
    if cuda is None or boot.reached_at is None or now - boot.reached_at < patience:
        return
    known = " (system not yet initialized: on such machines it stays so)" if cuda.code == 802 else ""
    what = f"CUDA error {cuda.code}{known}" if cuda.code is not None else f"no CUDA driver: {cuda.said}"
    raise CheckFailed(
        f"{machine.name or machine.id} answers ssh, and its GPU does not work: {what}",
        f"It is billed at ${machine.usd_per_hour:.2f}/h. End it: "
        f"{spell_next(settings, 'terminate', machine=machine.name or machine.id)}",
        "Then launch another; a restart seldom helps.",
    )


def _check_time(settings: Settings, seen: Fleet, boot: _BootState, started: float) -> None:
    """TryLater when the type's usual time is over."""
    limit = settings.instance.wait_limit_s
    if seen.now - started < limit:
        return
    raise TryLater(
        f"{_progress(settings, seen, boot)}: not usable after {limit / 60:g} min",
        f"It is not gone, and it is billed at ${boot.instance.usd_per_hour:.2f}/h.",
        *_why_unanswered(settings, boot),
        f"Go on waiting: {spell_next(settings, 'wait', machine=boot.instance.name or boot.instance.id)}",
        f"Or end it: {spell_next(settings, 'terminate', machine=boot.instance.name or boot.instance.id)}",
    )


def _why_unanswered(settings: Settings, boot: _BootState) -> list[str]:
    """Who can say why a machine that is reached does not answer to what it is asked."""
    if boot.reach is None or boot.reach.answered or not boot.reach.is_reached:
        return []
    name = boot.instance.name or boot.instance.id
    return [f"To see why it does not answer: {spell_next(settings, 'doctor', machine=name)}"]


def _progress(settings: Settings, seen: Fleet, boot: _BootState) -> str:
    """`lambda · booting · 203.0.113.9, ssh does not answer yet · 65 s · $0.02 so far`."""
    machine = boot.instance
    where = machine.ip or "no address yet"
    if boot.reach and not boot.reach.answered:
        where += ", " + (
            f"ssh answers: {boot.reach.said[-200:]}" if boot.reach.is_reached else "ssh does not answer yet"
        )
    elif boot.cuda and not boot.cuda.works:
        where += f", ssh answers, CUDA does not (error {boot.cuda.code})"
    known = seen.ledger.by_id(machine.id) or LedgerMachine("", "", since=seen.now)
    up, dollars = seen.now - known.since, known.usd_until(seen.now)
    trouble = f" · {boot.trouble}" if boot.trouble else ""
    name = alias_for(settings, machine)
    cost = f"{known.bound}{up:.0f} s · {known.bound}${dollars:.2f} so far"
    return f"{name} · {machine.status} · {where} · {cost}{trouble}"


def _waited(settings: Settings, seen: Fleet, boot: _BootState, started: float) -> Waited:
    """The report of success."""
    known = seen.ledger.by_id(boot.instance.id)
    dollars = known.usd_until(seen.now) if known else 0.0
    following = spell_next(settings, "setup-ssh", machine=boot.instance.name or boot.instance.id)
    alias = alias_for(settings, boot.instance)
    return Waited(alias, boot.instance, seen.now - started, dollars, boot.cuda, following)


@dataclass(frozen=True)
class InstanceStatus:
    """One machine. Uptime and dollars count from its launch, or from when it was first seen: then `bound`."""

    alias: str
    instance: CloudInstance
    is_ours: bool
    up_s: float
    usd_so_far: float
    inside: Activity | None
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
    doubtful: tuple[LedgerMachine, ...]
    elsewhere: tuple[LedgerMachine, ...]  # those of them that another key's list would show
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
    seen = yield from list_and_record(settings)
    rows = []
    for instance in seen.alive:
        row = yield from _status_of(settings, seen, instance)
        rows.append(row)
    filesystems: tuple[Filesystem, ...] = ()
    warnings = _ledger_warnings(settings, seen) + _other_key_warnings(settings, seen)
    try:
        filesystems = yield list_filesystems(settings.base_url)
    except RunnerError as error:
        warnings += (f"filesystems are not known: {error.message}",)
    warnings += tuple(_drift_warning(row) for row in rows if row.inside and row.inside.has_drifted)
    month = seen.ledger.usd_this_month(seen.now)
    bound = seen.ledger.bound_this_month()
    return Status(
        tuple(rows), seen.unconfirmed(), seen.on_another_account(), filesystems, month, bound, warnings
    )


def _status_of(settings: Settings, seen: Fleet, instance: CloudInstance) -> Asking[InstanceStatus]:
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


def _drift_warning(row: InstanceStatus) -> str:
    """That somebody changed the packages there, and who can say which."""
    return (
        f"{row.alias}: the packages of its shared environment are not those that the last setup left; "
        "action=doctor with the phase says which"
    )


def _other_key_warnings(settings: Settings, seen: Fleet) -> tuple[str, ...]:
    """Of each machine that this key cannot see, what it costs and what to do."""
    return tuple(
        f"{m.name} (${m.usd_per_hour:.2f}/h) was {OTHER_KEY}. {'. '.join(other_key_hints(settings, m))}"
        for m in seen.on_another_account()
    )


def _ledger_warnings(settings: Settings, seen: Fleet) -> tuple[str, ...]:
    """That the ledger was damaged, and what was done about it."""
    if not seen.ledger.num_unreadable:
        return ()
    where = settings.paths.shown(settings.paths.state)
    num = seen.ledger.num_unreadable
    return (
        f"{num} line{'s' * (num != 1)} of {where}/ledger.jsonl cannot be read; the file is kept aside there "
        "at the next entry, and what runs is taken from the cloud's list",
    )

"""wait: blocks until a machine answers ssh and its GPU computes; a time-out never means that it is gone."""

from dataclasses import dataclass, replace
from typing import Any

from runner.errors import CheckFailed, RunnerError, TryLater, UsageError
from runner.facts.fact import Asking, Pause, Record
from runner.facts.lambda_cloud import FAILED, Rented
from runner.facts.ledger import Machine
from runner.facts.probe import Cuda, Reach, ask_cuda, ask_reach, is_cuda_wanted
from runner.plan.settings import Settings
from runner.verbs.own_line import own_line
from runner.verbs.rented import NUM_MISSES, Seen, alias_for, find, look_and_record, rent_line

POLL_S = 5.0
CUDA_PATIENCE_S = 90.0  # the driver may be a little later than sshd; error 802 after that stays


@dataclass(frozen=True)
class Waited:
    """A machine that can be worked on."""

    alias: str
    instance: Rented
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
class Boot:
    """How far a machine has come."""

    instance: Rented
    reach: Reach | None = None
    cuda: Cuda | None = None
    reached_at: float | None = None
    num_misses: int = 0
    trouble: str = ""


def wait(settings: Settings) -> Asking[Waited]:
    """Ask the cloud, then ssh, then CUDA, until all are well, one failed for good, or time is up."""
    seen = yield from first_sight(settings)
    started, boot = seen.now, Boot(find(settings, seen))
    while True:
        boot = yield from look_inside(settings, boot, seen.now)
        check_alive(settings, boot.instance)
        if boot.reach and boot.reach.answered and (boot.cuda is None or boot.cuda.works):
            return waited(settings, seen, boot, started)
        check_cuda(settings, boot, seen.now)
        check_time(settings, seen, boot, started)
        yield Pause(POLL_S, progress(settings, seen, boot))
        seen, boot = yield from look_again(settings, seen, boot)


def first_sight(settings: Settings) -> Asking[Seen]:
    """The list, asked for again while a launch of ours may still come up in it."""
    while True:
        seen = yield from look_and_record(settings)
        doubtful = [m for m in seen.doubtful() if m not in seen.elsewhere()]
        listed = any(m.id in {i.id for i in seen.alive} for m in seen.ledger.ours)
        if not doubtful or listed or settings.machine not in (None, doubtful[0].alias, doubtful[0].name):
            return seen
        yield Pause(POLL_S, f"{doubtful[0].name} was asked for and is not in the list yet")


def look_again(settings: Settings, seen: Seen, boot: Boot) -> Asking[tuple[Seen, Boot]]:
    """What the list shows now; a cloud that does not answer is waited for, like everything else."""
    try:
        seen = yield from look_and_record(settings)
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


def look_inside(settings: Settings, boot: Boot, now: float) -> Asking[Boot]:
    """ssh, once there is an address; then CUDA, where there should be one."""
    machine = boot.instance
    if machine.ip is None or machine.status in FAILED:
        return boot
    reach: Reach = yield ask_reach(settings, machine)
    if not reach.answered:
        return replace(boot, reach=reach)
    reached_at = boot.reached_at if boot.reached_at is not None else now
    boot = replace(boot, reach=reach, reached_at=reached_at)
    if not is_cuda_wanted(settings, machine):
        return boot
    cuda: Cuda = yield ask_cuda(settings, machine)
    return replace(boot, cuda=cuda)


def check_alive(settings: Settings, machine: Rented) -> None:
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
        f"End it: {own_line(settings, 'terminate', machine=machine.name or machine.id)}",
        f"Then another: {rent_line(settings)}",
    )


def check_cuda(settings: Settings, boot: Boot, now: float) -> None:
    """CheckFailed when the GPU had its time and still does not compute."""
    cuda, machine = boot.cuda, boot.instance
    patience = CUDA_PATIENCE_S * settings.time_scale
    if cuda is None or boot.reached_at is None or now - boot.reached_at < patience:
        return
    known = " (system not yet initialized: on such machines it stays so)" if cuda.code == 802 else ""
    what = f"CUDA error {cuda.code}{known}" if cuda.code is not None else f"no CUDA driver: {cuda.said}"
    raise CheckFailed(
        f"{machine.name or machine.id} answers ssh, and its GPU does not work: {what}",
        f"It is billed at ${machine.usd_per_hour:.2f}/h. End it: "
        f"{own_line(settings, 'terminate', machine=machine.name or machine.id)}",
        "Then launch another; a restart seldom helps.",
    )


def check_time(settings: Settings, seen: Seen, boot: Boot, started: float) -> None:
    """TryLater when the type's usual time is over."""
    limit = settings.instance.wait_limit_s
    if seen.now - started < limit:
        return
    raise TryLater(
        f"{progress(settings, seen, boot)}: not usable after {limit / 60:g} min",
        f"It is not gone, and it is billed at ${boot.instance.usd_per_hour:.2f}/h.",
        f"Go on waiting: {own_line(settings, 'wait', machine=boot.instance.name or boot.instance.id)}",
        f"Or end it: {own_line(settings, 'terminate', machine=boot.instance.name or boot.instance.id)}",
    )


def progress(settings: Settings, seen: Seen, boot: Boot) -> str:
    """`lambda · booting · 203.0.113.9, ssh does not answer yet · 65 s · $0.02 so far`."""
    machine = boot.instance
    where = machine.ip or "no address yet"
    if boot.reach and not boot.reach.answered:
        where += ", ssh does not answer yet"
    if boot.cuda and not boot.cuda.works:
        where += f", ssh answers, CUDA does not (error {boot.cuda.code})"
    known = seen.ledger.by_id(machine.id) or Machine("", "", since=seen.now)
    up, dollars = seen.now - known.since, known.usd_until(seen.now)
    trouble = f" · {boot.trouble}" if boot.trouble else ""
    name = alias_for(settings, machine)
    cost = f"{known.bound}{up:.0f} s · {known.bound}${dollars:.2f} so far"
    return f"{name} · {machine.status} · {where} · {cost}{trouble}"


def waited(settings: Settings, seen: Seen, boot: Boot, started: float) -> Waited:
    """The report of success."""
    known = seen.ledger.by_id(boot.instance.id)
    dollars = known.usd_until(seen.now) if known else 0.0
    following = own_line(settings, "setup-ssh", machine=boot.instance.name or boot.instance.id)
    alias = alias_for(settings, boot.instance)
    return Waited(alias, boot.instance, seen.now - started, dollars, boot.cuda, following)

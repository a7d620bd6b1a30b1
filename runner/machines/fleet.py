"""Which rented machine is meant, what it is called, and what the list says that the ledger does not know."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.errors import UsageError, choices
from runner.machines.lambda_api import CloudInstance, list_instances
from runner.machines.ledger import (
    LEDGER,
    OUR_NAME,
    SETTLE_S,
    Ledger,
    LedgerMachine,
    alias_of,
    installation_id,
    number_of,
    read_ledger,
)
from runner.plan.command import sh
from runner.plan.next_command import spell_next
from runner.plan.plan import Target
from runner.plan.settings import Settings
from runner.world.world import Account, Asking, Now, Pause, Record

_DEFAULT_ALIAS = "lambda"
OTHER_KEY = (
    "rented with another API key or from another address, and this one's list does not show it: "
    "it may be running, and be billed"
)
SSH_ALIAS = re.compile(r"[A-Za-z0-9_][\w.-]*")
NUM_MISSES = 3  # lists without a machine before we believe that it is gone: a list may flap
MISS_PAUSE_S = 5.0
_LONGEST_ALIAS = 64 - len("-0001-abcdef")  # the cloud's limit for a name


@dataclass(frozen=True)
class Fleet:
    """What the cloud lists, beside what we remember, at one moment."""

    ledger: Ledger
    instances: tuple[CloudInstance, ...]
    now: float
    settle_s: float = SETTLE_S
    account: str = ""  # who was shown this

    @property
    def alive(self) -> tuple[CloudInstance, ...]:
        """The listed instances that may be billed."""
        return tuple(i for i in self.instances if i.is_alive)

    def unconfirmed(self) -> tuple[LedgerMachine, ...]:
        """Launches of ours that may be there unlisted: asked for lately, or with another key."""
        return tuple(m for m in self.unlisted() if not self.is_settled(m))

    def on_another_account(self) -> tuple[LedgerMachine, ...]:
        """Those of them that this key's list would not show."""
        return tuple(m for m in self.unlisted() if not m.is_shown_to(self.account))

    def missing(self) -> tuple[LedgerMachine, ...]:
        """Machines of ours that the list should show, and does not."""
        return tuple(m for m in self.unlisted() if self.is_settled(m))

    def unlisted(self) -> tuple[LedgerMachine, ...]:
        """Machines of ours that may be running, and are not in this list."""
        ids, names = {i.id for i in self.instances}, {i.name for i in self.instances}
        return tuple(m for m in self.ledger.ours if (m.id not in ids if m.id else m.name not in names))

    def is_settled(self, machine: LedgerMachine) -> bool:
        """Whether its absence from the list means that it is not there: the list may be late."""
        is_due = machine.was_listed or self.now - machine.asked_at >= self.settle_s
        return is_due and machine.is_shown_to(self.account)


def list_fleet(settings: Settings) -> Asking[Fleet]:
    """Ask the cloud for its list, and twice more while it lacks what it had; nothing is recorded."""
    seen = yield from _list_once(settings)
    for _ in range(NUM_MISSES - 1):
        if not (lost := seen.missing()):
            break
        yield Pause(
            MISS_PAUSE_S,
            f"the cloud's list does not show {lost[0].name}, which was rented from here; looking once more",
        )
        before = {i.id: i for i in seen.instances}
        seen = yield from _list_once(settings)
        seen = replace(seen, instances=tuple((before | {i.id: i for i in seen.instances}).values()))
    return seen


def _list_once(settings: Settings) -> Asking[Fleet]:
    """What one list shows."""
    instances = yield list_instances(settings.base_url)
    account = yield Account(settings.base_url)
    now = yield Now()
    return Fleet(read_ledger(settings.paths.state), instances, now, SETTLE_S * settings.time_scale, account)


def list_and_record(settings: Settings) -> Asking[Fleet]:
    """As `look`, and the ledger then knows what the list shows."""
    seen = yield from list_fleet(settings)
    yield from ledger_updates(seen, installation_id(settings))
    ledger = read_ledger(settings.paths.state)  # whole again, if it was damaged: that it was is kept
    ledger = replace(ledger, num_unreadable=seen.ledger.num_unreadable)
    return replace(seen, ledger=ledger)


def ledger_updates(seen: Fleet, own: str) -> Iterator[Record]:
    """What the ledger does not know yet: ours that came up, what changed, what is gone."""
    ledger = seen.ledger
    for instance in seen.instances:
        known = ledger.by_id(instance.id)
        if known is None and _is_ours(instance.name, ledger, own):
            yield launched_record(instance, seen.account)
        if known is None or not _is_as_before(instance, known, seen.account):
            yield _seen_record(instance, seen.account)
    listed = {i.id for i in seen.alive}
    names = {i.name for i in seen.instances}
    for machine in ledger.machines:
        if not seen.is_settled(machine):
            continue
        if machine.id and machine.is_alive and machine.id not in listed:
            yield Record.of("gone", id=machine.id, name=machine.name)
        if machine.is_doubtful and machine.name not in names:
            yield Record.of("settled", name=machine.name)


def _is_as_before(instance: CloudInstance, known: LedgerMachine, account: str) -> bool:
    """Whether this account was shown the machine before, in the same state."""
    was_shown = known.was_listed and account in known.accounts
    return was_shown and (known.state, known.ip) == (instance.status, instance.ip)


def launched_record(instance: CloudInstance, account: str) -> Record:
    """The machine is ours and it is there."""
    return Record.of("launched", **_told(instance), alias=alias_of(instance.name), account=account)


def _seen_record(instance: CloudInstance, account: str) -> Record:
    """The list shows it like this."""
    return Record.of("seen", **_told(instance), ip=instance.ip, state=instance.status, account=account)


def _told(instance: CloudInstance) -> dict[str, object]:
    """What the ledger keeps of any machine."""
    return {
        "id": instance.id,
        "name": instance.name,
        "type": instance.type,
        "region": instance.region,
        "usd_per_hour": instance.usd_per_hour,
    }


def _is_ours(name: str, ledger: Ledger, own: str) -> bool:
    """Whether we launched what has this name: the ledger says so, or the name itself."""
    match = OUR_NAME.fullmatch(name)
    known = ledger.by_name(name)
    return bool(match and (match["owner"] == own or (known and known.is_ours)))


def launch_name(settings: Settings, seen: Fleet) -> str:
    """The name of the next launch: numbered on from all that were ever made or are listed."""
    alias = launch_alias(settings)
    listed = (number_of(i.name, alias) or 0 for i in seen.instances)
    number = max([seen.ledger.launches(alias), *listed]) + 1
    return f"{alias}-{number:04d}-{installation_id(settings)}"


def launch_alias(settings: Settings) -> str:
    """The alias of a new machine, checked: ssh and the cloud both have to bear it."""
    alias = settings.alias
    if not SSH_ALIAS.fullmatch(alias):
        raise UsageError(f"machine={alias}: a new name is letters, digits, '.', '_' and '-'; ssh uses it")
    if OUR_NAME.fullmatch(alias) or len(alias) > _LONGEST_ALIAS:
        raise UsageError(
            f"machine={alias}: a new name has at most {_LONGEST_ALIAS} characters and no number of ours"
        )
    return alias


def answers_to(instance: CloudInstance, wanted: str) -> bool:
    """Whether a person who says `wanted` means this instance."""
    return wanted in (instance.id, instance.name, alias_of(instance.name))


def find_machine(settings: Settings, seen: Fleet) -> CloudInstance:
    """The machine that is meant: named by `machine=`, else the one of ours; a stranger's has to be named.

    UsageError with the choices when there is none or more than one.
    """
    wanted = settings.machine
    if wanted is not None:
        found = [i for i in seen.alive if answers_to(i, wanted)]
        exact = [i for i in found if i.id == wanted]
        return exactly_one(exact or found, settings, seen)
    ours = {m.id for m in seen.ledger.ours} | {m.name for m in seen.ledger.ours}
    own = installation_id(settings)
    found = [i for i in seen.alive if i.id in ours or i.name in ours or _is_ours(i.name, seen.ledger, own)]
    return exactly_one(found, settings, seen)


def configured_alias(settings: Settings) -> str:
    """What a machine is called where nobody named one; `local` is no name for a rented machine."""
    return _DEFAULT_ALIAS if settings.instance.is_local else settings.instance.name


def exactly_one(found: list[CloudInstance], settings: Settings, seen: Fleet) -> CloudInstance:
    """The one there is."""
    if len(found) == 1:
        return found[0]
    listed = tuple(
        f"  machine={i.id}  {i.name or '(no name)'} · {i.type} · {i.status}" for i in found or seen.alive
    )
    if found:
        raise UsageError("Several machines are meant; name one", *listed)
    if elsewhere := seen.on_another_account():
        raise UsageError(f"{elsewhere[0].name}: {OTHER_KEY}", *other_key_hints(settings, elsewhere[0]))
    if doubtful := seen.unconfirmed():
        raise UsageError(
            f"{doubtful[0].name} was asked for and is not listed yet: it may come up, and be billed",
            f"In a minute: {spell_next(settings, 'status')}",
        )
    if listed and settings.machine is None:
        raise UsageError(
            "What is rented was not launched from here, as far as is on record: it may be somebody else's. "
            "It runs on, and is billed. Name it, if it is meant:",
            *listed,
        )
    what = f"machine={settings.machine}" if settings.machine else configured_alias(settings)
    near = choices(settings.machine or "", [i.name for i in seen.alive if i.name], "Machines")[:-1]
    some = (
        ("These are there:", *listed) if listed else (f"None is rented. To rent one: {rent_line(settings)}",)
    )
    raise UsageError(f"{what}: the cloud lists no such machine", *near, *some)


def other_key_hints(settings: Settings, machine: LedgerMachine) -> tuple[str, ...]:
    """What to do about a machine that only another key shows."""
    ledger = sh(settings.paths.shown(settings.paths.state / LEDGER)).text
    return (
        "To see it: action=status with the LAMBDA_API_KEY and the cloud.base_url of its launch",
        "If that key is gone for good, and the cloud's console lists the machine no longer, forget it: "
        f"sed -i.bak /{machine.name}/d {ledger}",
    )


def rent_line(settings: Settings) -> str:
    """The command line that launches a machine; of a small kind, where none was said."""
    kind = ("instance=gpu_1x_a10",) if settings.instance.is_local else ()
    return spell_next(settings, "launch", *kind)


def alias_for(settings: Settings, instance: CloudInstance) -> str:
    """What ssh calls this machine: our alias in its name, else what was typed, else the configured one."""
    if OUR_NAME.fullmatch(instance.name):
        return alias_of(instance.name)
    typed = settings.machine
    if typed and typed != instance.id and SSH_ALIAS.fullmatch(typed):
        return typed
    named = typed and instance.name and SSH_ALIAS.fullmatch(instance.name)
    return instance.name if named else configured_alias(settings)


def target_for(settings: Settings, instance: CloudInstance) -> Target:
    """The machine as a plan names it."""
    return Target(alias_for(settings, instance), "lambda", instance.type, instance.usd_per_hour)


def needs_rented(settings: Settings) -> None:
    """UsageError on `local`, with the instances that can be rented."""
    if settings.instance.is_local:
        names = sorted(
            {f.stem for d in settings.paths.conf for f in (d / "instance").glob("*.yaml")} - {"local"}
        )
        raise UsageError(
            f"action={settings.action} is for rented machines; here instance={settings.instance.choice}",
            f"Choices: {', '.join(f'instance={name}' for name in names)}",
        )

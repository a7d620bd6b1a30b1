"""The ledger: what we asked of the cloud and what it said, one JSON object a line, never rewritten.

The file is the only memory of rented machines. An entry is written *before* a request that may cost
money and after its answer, so that whoever reads it later knows what may be running.

event       holds                                              means
intent      name alias type region usd_per_hour digest account a launch is about to be asked for, or once more
refused     name code type                                     this launch certainly came to nothing
run         name run                                           a run is about to start on what ssh calls so
doubt       name why                                           nobody knows; the name has to be looked for
launched    name id alias type region usd_per_hour account     the machine is there
settled     name                                               nothing of this name was rented
seen        id name type region usd_per_hour ip state account  the list showed this
gone        id                                                 the list no longer shows it
home        id holds                                           what its home folder held before any job
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from errno import ENAMETOOLONG, ENOENT, ENOTDIR
from hashlib import sha256
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.plan.command import identity_of
from runner.plan.settings import Settings

LEDGER = "ledger.jsonl"
_ABSENT = (ENOENT, ENOTDIR, ENAMETOOLONG)  # of a file: it is not there, and cannot have been
UNANSWERED = "unanswered"  # the code of a refusal of which the cloud told none
SETTLE_S = 300.0  # after this long without a trace in the list, a doubtful launch did not happen

# `lambda-0003-4f9a1c`: alias, number of the launch, whose runner it is.
OUR_NAME = re.compile(r"(?P<alias>[A-Za-z0-9_][\w.-]*)-(?P<number>\d{4})-(?P<owner>[0-9a-f]{6})")

Entry = dict[str, Any]


@dataclass(frozen=True)
class _StartedRun:
    """A run that was to be started on what ssh calls `name`; its folder here, absolute."""

    name: str
    folder: str


@dataclass(frozen=True)
class LedgerMachine:
    """A machine that we asked for, or that we saw. `id` is None while only its name is known."""

    name: str
    alias: str
    id: str | None = None
    type: str = "unknown"
    region: str = "unknown"
    usd_per_hour: float = 0.0
    ip: str | None = None
    state: str = "unknown"
    since: float = 0.0  # of the launch; where nobody here asked for it, of the first sight
    until: float | None = None
    is_ours: bool = False
    digest: str | None = None
    seen_at: float = 0.0  # when the cloud last said anything of it
    was_listed: bool = False
    asked_at: float = 0.0  # when the cloud was last asked for it, or last left us without an answer
    accounts: frozenset[str] = frozenset()  # of the keys that asked for it or were shown it; empty: unknown
    runs: tuple["_StartedRun", ...] = ()  # since it was asked for, on this or another machine
    was_asked_for: bool = False  # by an intent of this ledger, not only known from the cloud's list
    home: frozenset[tuple[str, str]] | None = None  # (name, stamp) of what was there at our first look

    @property
    def bound(self) -> str:
        """`≥ ` if its launch was not seen, so that age and cost are lower bounds; else nothing."""
        return "" if self.was_asked_for else "≥ "

    @property
    def is_alive(self) -> bool:
        """Whether it may be billed, as far as we know."""
        return self.until is None

    @property
    def is_doubtful(self) -> bool:
        """Whether it was asked for and nobody knows what came of it."""
        return self.id is None and self.until is None

    def is_shown_to(self, account: str) -> bool:
        """Whether the list that this account is given would show it; another one's says nothing of it."""
        return not self.accounts or not account or account in self.accounts

    def usd_until(self, now: float) -> float:
        """What it has cost by then, at the price of its launch."""
        hours = max(0.0, min(now, self.until or now) - self.since) / 3600
        return hours * self.usd_per_hour


@dataclass(frozen=True)
class Refusal:
    """The last launch came to nothing: when, under which name, of which type, and the cloud's code."""

    at: float
    name: str
    type: str
    code: str


@dataclass(frozen=True)
class Ledger:
    """All machines, in the order in which they came up; `num_unreadable` lines were no entries."""

    machines: tuple[LedgerMachine, ...] = ()
    num_unreadable: int = 0
    refusal: Refusal | None = None  # None: the last launch did not come to nothing

    @property
    def ours(self) -> tuple[LedgerMachine, ...]:
        """Those that we launched and that may be running."""
        return tuple(m for m in self.machines if m.is_ours and m.is_alive)

    def by_id(self, instance_id: str) -> LedgerMachine | None:
        """The machine with this id."""
        return next((m for m in self.machines if m.id == instance_id), None)

    def by_name(self, name: str) -> LedgerMachine | None:
        """The newest machine with this name in the cloud."""
        return next((m for m in reversed(self.machines) if m.name == name), None)

    def launches(self, alias: str) -> int:
        """The highest number of a launch under this alias, 0 for none."""
        numbers = (number_of(m.name, alias) for m in self.machines)
        return max((n for n in numbers if n), default=0)

    def spent(self, digest: str) -> str | None:
        """The name of the launch that a plan with this digest made."""
        return next((m.name for m in self.machines if m.digest == digest), None)

    def usd_this_month(self, now: float) -> float:
        """What all our machines cost since the first of the month, UTC."""
        first = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start = first.timestamp()
        ours = (m for m in self.machines if m.is_ours and m.id)
        return sum((m.usd_until(now) - m.usd_until(max(start, m.since)) for m in ours), 0.0)

    def bound_this_month(self) -> str:
        """What goes before the cost of the month: at least, when a machine of ours was not seen to begin."""
        return next((m.bound for m in self.machines if m.is_ours and m.id and m.bound), "")


def read_ledger(state: Path) -> Ledger:
    """The ledger below `state`; no file is an empty one, and a line that is no entry is counted.

    UsageError for a file that cannot be read: it is not known then what was rented.
    """
    file = state / LEDGER
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        if error.errno in _ABSENT:
            return Ledger()
        raise UsageError(
            f"{file} cannot be read: {error.strerror}",
            "It alone knows which machines were rented from here; they may be running, and be billed.",
            "Make it readable, or move it aside: it is then rebuilt from the cloud's list by action=status",
        ) from error
    entries = [entry for line in lines if (entry := entry_of(line))]
    num_blank = sum(not line.strip() for line in lines)
    return fold(entries, len(lines) - len(entries) - num_blank)


def entry_of(line: bytes) -> Entry | None:
    """One line; None for what a crash or a disk made of it."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("at"), int | float):
        return None
    needed = {"intent": "name", "run": "name", "refused": "name", "doubt": "name", "settled": "name"}
    needed |= {"launched": "id", "seen": "id", "gone": "id", "home": "id"}
    key = needed.get(str(entry.get("event")))
    return entry if key and isinstance(entry.get(key), str) else None


def fold(entries: Iterable[Entry], num_unreadable: int = 0) -> Ledger:
    """From what happened to what is."""
    machines: dict[str, LedgerMachine] = {}  # by name until the id is known, then by id
    refusal: Refusal | None = None
    for entry in entries:
        _FOLDS[entry["event"]](machines, entry)
        _told_by(machines, entry)
        if entry["event"] == "refused":
            told = (str(entry.get(key) or "unknown") for key in ("name", "type", "code"))
            refusal = Refusal(entry["at"], *told)
        elif entry["event"] == "launched":
            refusal = None
    return Ledger(tuple(machines.values()), num_unreadable, refusal)


def _told_by(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    """Remember which account an entry is about."""
    account, key = entry.get("account"), entry.get("id") or entry.get("name")
    machine = machines.get(str(key))
    if machine and isinstance(account, str):
        machines[str(key)] = replace(machine, accounts=machine.accounts | {account})


def alias_of(name: str) -> str:
    """`lambda` for `lambda-0003-4f9a1c`; any other name is its own alias."""
    match = OUR_NAME.fullmatch(name)
    return match["alias"] if match else name


def number_of(name: str, alias: str) -> int | None:
    """3 for `lambda-0003-4f9a1c` under the alias `lambda`."""
    match = OUR_NAME.fullmatch(name)
    return int(match["number"]) if match and match["alias"] == alias else None


def _intent(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    before = machines.get(entry["name"])
    machine = LedgerMachine(
        entry["name"], str(entry.get("alias") or alias_of(entry["name"])), since=entry["at"]
    )
    machine = replace(
        machine, **_described(entry), is_ours=True, was_asked_for=True, digest=entry.get("digest")
    )
    machine = replace(machine, asked_at=entry["at"])
    if before and before.until is None:  # one of its earlier attempts may have been carried out all the same
        machine = replace(machine, since=before.since)
    machines[entry["name"]] = machine


def _launched(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    name = str(entry.get("name") or "")
    asked = machines.pop(name, None) or LedgerMachine(name, alias_of(name), since=entry["at"])
    known = machines.get(entry["id"], asked)
    machine = replace(
        known,
        id=entry["id"],
        is_ours=True,
        since=asked.since if asked.was_asked_for else min(asked.since, known.since),
        was_asked_for=asked.was_asked_for or known.was_asked_for,
        asked_at=entry["at"],
        digest=asked.digest or known.digest,
    )
    machines[entry["id"]] = replace(machine, **_described(entry), state="booting", seen_at=entry["at"])


def _nothing_came(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    machine = machines.get(entry["name"])
    if machine and machine.id is None:
        machines[entry["name"]] = replace(machine, until=entry["at"], usd_per_hour=0.0)


def _run(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    """The alias may mean any living machine: the run is noted on all, and `terminate` matches the names."""
    started = _StartedRun(entry["name"], str(entry.get("run") or "unknown"))
    for key, machine in machines.items():
        if machine.is_alive:
            machines[key] = replace(machine, runs=(*machine.runs, started))


def _doubt(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    """Nothing is known; it may come up for a while from now."""
    machine = machines.get(entry["name"])
    if machine and machine.id is None:
        machines[entry["name"]] = replace(machine, asked_at=entry["at"])


def _seen(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    name = str(entry.get("name") or "")
    machine = machines.get(entry["id"]) or LedgerMachine(name, alias_of(name), entry["id"], since=entry["at"])
    until = (machine.until or entry["at"]) if entry.get("state") == "terminated" else None
    values = {k: entry[k] for k in ("ip", "state") if k in entry}
    machines[entry["id"]] = replace(
        machine, **_described(entry), **values, seen_at=entry["at"], until=until, was_listed=True
    )


def _gone(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    machine = machines.get(entry["id"])
    if machine and machine.until is None:
        machines[entry["id"]] = replace(machine, until=entry["at"], state="terminated", ip=None)


def _described(entry: Entry) -> Entry:
    """What an entry says of the machine itself."""
    texts = {k: entry[k] for k in ("type", "region") if isinstance(entry.get(k), str)}
    price = entry.get("usd_per_hour")
    return texts | ({"usd_per_hour": float(price)} if isinstance(price, int | float) and price else {})


def _home(machines: dict[str, LedgerMachine], entry: Entry) -> None:
    """The first look counts: what came later is somebody's work."""
    machine, holds = machines.get(entry["id"]), entry.get("holds")
    if machine and machine.home is None and isinstance(holds, dict):
        told = frozenset((str(name), str(stamp)) for name, stamp in holds.items())
        machines[entry["id"]] = replace(machine, home=told)


_FOLDS = {
    "intent": _intent,
    "refused": _nothing_came,
    "run": _run,
    "doubt": _doubt,
    "launched": _launched,
    "settled": _nothing_came,
    "seen": _seen,
    "gone": _gone,
    "home": _home,
}


OWNER = "owner"
_DIGITS = re.compile(r"[0-9a-f]{6}")
_MACHINE_ID = Path("/etc/machine-id")


def installation_id(settings: Settings) -> str:
    """The kept one; before the first launch the one that it will keep."""
    return read_installation_id(settings.paths.state) or _new_installation_id(settings)


def read_installation_id(state: Path) -> str | None:
    """The id that the first launch saved; None if there is none, or the file is corrupt."""
    file = state / OWNER
    try:
        text = file.read_bytes().decode("ascii", errors="replace").strip()
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise UsageError(
            f"{file} cannot be read: {error.strerror}",
            "It says which of the account's machines are ours; they may be running, and be billed.",
        ) from error
    return text if _DIGITS.fullmatch(text) else None


def _new_installation_id(settings: Settings) -> str:
    """Made of what is random on this computer and the same at the next look.

    It cannot be drawn: a plan names the machine, showing one writes no file, and confirming it has to
    make the same name. Host name and path alone are not enough: two laptops often share both.
    """
    parts = (
        os.uname().nodename.encode(errors="surrogateescape"),
        os.fsencode(settings.paths.state),
        _contents(_MACHINE_ID),
        str(Path.home().stat().st_ino if Path.home().exists() else 0).encode(),
        _contents(Path(f"{identity_of(settings)}.pub")),
    )
    return sha256(b"\0".join(parts)).hexdigest()[:6]


def _contents(file: Path) -> bytes:
    """What is in a file; nothing, if it is not there or not ours to read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""

"""Writes the ledger: one line at a time, whole and on the disk before anything else happens."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.errors import Refused, UsageError
from runner.facts.ledger import LEDGER, OUR_NAME, entry_of, read_ledger
from runner.facts.owner import OWNER, read_owner
from runner.world.state import write_atomically


def append(file: Path, entry: dict[str, Any]) -> None:
    """Add one entry. A file with unreadable lines is kept aside first and its entries carried over."""
    line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_suffix(".lock")):
            mend(file)
            with file.open("ab") as out:
                out.write(line)
                out.flush()
                os.fsync(out.fileno())
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(file: Path, error: OSError) -> UsageError:
    """What it means that nothing can be remembered."""
    return UsageError(
        f"{file} cannot be written: {error.strerror}",
        "Without it nobody would know what was rented, so nothing more is asked of the cloud.",
        "Another place: paths.state=DIR",
    )


def mend(file: Path) -> None:
    """Give a file whose lines are not all entries a readable successor; the old one stays beside it."""
    if not file.exists():
        return
    data = file.read_bytes()
    lines = data.splitlines()
    good = [line for line in lines if entry_of(line)]
    if len(good) == len([line for line in lines if line.strip()]):
        if data and not data.endswith(b"\n"):  # a whole entry whose line break was lost
            with file.open("ab") as out:
                out.write(b"\n")
        return
    aside = next(a for n in range(1, 10_000) if not (a := file.with_name(f"{LEDGER}.corrupt-{n}")).exists())
    aside.write_bytes(data)
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    new.write_bytes(b"".join(line + b"\n" for line in good))
    new.replace(file)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Alone with the file, for a moment; whoever holds the lock and dies lets go of it."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def only_launch(state: Path, name: str) -> Iterator[None]:
    """One launch at a time below this folder, and each name once; Refused otherwise."""
    lock = state / "launch.lock"
    try:
        state.mkdir(parents=True, exist_ok=True)
        opened = lock.open("a")
    except OSError as error:
        raise unwritable(lock, error) from error
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(
                "Another runner is launching a machine right now; nothing was rented by this one",
                "When it is done: python -m runner action=status",
            ) from error
        if read_ledger(state).by_name(name):
            raise Refused(
                f"{name} was launched by another runner since this plan was made",
                "Nothing was rented by this one. Show the plan again; it will have another name.",
            )
        keep_owner(state, name)
        yield


def keep_owner(state: Path, name: str) -> None:
    """Keep whose the machines of this folder are, since the first one; alone, under the lock of launches."""
    match, kept = OUR_NAME.fullmatch(name), read_owner(state)
    if match is None or match["owner"] == kept:
        return
    if kept is not None:
        raise Refused(
            f"{name} is not what a machine of this runner is called since another one was launched",
            "Nothing was rented. Show the plan again; it will have another name.",
        )
    try:
        write_atomically(state / OWNER, match["owner"] + "\n")
    except OSError as error:
        raise unwritable(state / OWNER, error) from error

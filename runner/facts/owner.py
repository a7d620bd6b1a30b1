"""Whose runner this is: six hex digits in the names of our machines, kept since the first launch."""

import os
import re
from hashlib import sha256
from pathlib import Path

from runner.errors import UsageError
from runner.facts.ledger import ABSENT
from runner.facts.probe import identity_of
from runner.plan.settings import Settings

OWNER = "owner"
DIGITS = re.compile(r"[0-9a-f]{6}")
MACHINE_ID = Path("/etc/machine-id")


def owner(settings: Settings) -> str:
    """The kept one; before the first launch the one that it will keep."""
    return read_owner(settings.paths.state) or new_owner(settings)


def read_owner(state: Path) -> str | None:
    """What the first launch kept; None before it, and for what a disk made of it."""
    file = state / OWNER
    try:
        text = file.read_bytes().decode("ascii", errors="replace").strip()
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise UsageError(
            f"{file} cannot be read: {error.strerror}",
            "It says which of the account's machines are ours; they may be running, and be billed.",
        ) from error
    return text if DIGITS.fullmatch(text) else None


def new_owner(settings: Settings) -> str:
    """Made of what is random on this computer and the same at the next look.

    It cannot be drawn: a plan names the machine, showing one writes no file, and confirming it has to
    make the same name. Host name and path alone are not enough: two laptops often share both.
    """
    parts = (
        os.uname().nodename.encode(errors="surrogateescape"),
        os.fsencode(settings.paths.state),
        contents(MACHINE_ID),
        str(Path.home().stat().st_ino if Path.home().exists() else 0).encode(),
        contents(Path(f"{identity_of(settings)}.pub")),
    )
    return sha256(b"\0".join(parts)).hexdigest()[:6]


def contents(file: Path) -> bytes:
    """What is in a file; nothing, if it is not there or not ours to read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""

"""What the simulated cloud was asked and what it answered, for tests to read; holds no key."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEPT_CHARACTERS = 4000
SECRET_FIELDS = re.compile(r'("(?:private_key|jupyter_token|jupyter_url)": ?)"[^"]*"')


@dataclass(frozen=True)
class Entry:
    """One request. `status` is None when no answer arrived; `answer` is what was to arrive.

    `at_s` is in simulated seconds since the start; `launched` and `terminated` are the ids of the
    instances on which it had that effect.
    """

    number: int
    at_s: float
    method: str
    path: str
    query: str
    body: Any
    user_agent: str
    status: int | None
    answer: str
    faults: tuple[str, ...]
    launched: tuple[str, ...] = ()
    terminated: tuple[str, ...] = ()


class Journal:
    """The entries in the order in which requests ended; kept in a file too when one is given."""

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._file = file

    def write(self, **fields: Any) -> None:
        """Add one entry; fields as in `Entry`, the number is given here."""
        fields["answer"] = SECRET_FIELDS.sub(r'\1"…"', fields["answer"])[:KEPT_CHARACTERS]
        with self._lock:
            entry = Entry(number=len(self._entries) + 1, **fields)
            self._entries.append(entry)
            if self._file:
                with self._file.open("a") as lines:
                    lines.write(json.dumps(dataclasses.asdict(entry)) + "\n")

    def entries(self, method: str = "", path: str = "") -> list[Entry]:
        """Return the entries of a method whose path contains a text, for instance POST, launch."""
        with self._lock:
            entries = list(self._entries)
        return [e for e in entries if method in ("", e.method) and path in e.path]

    def launched(self) -> list[str]:
        """Return the ids of all instances ever rented."""
        return [instance for entry in self.entries() for instance in entry.launched]

    def terminated(self) -> list[str]:
        """Return the ids of all instances that somebody asked to terminate."""
        return [instance for entry in self.entries() for instance in entry.terminated]

"""Machines behind ssh: one for all tests that leave it as it was, with a root of its own for each."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.remote import Rig, shared_with_machine
from tests.simulator.machine import Machine
from tests.support import Lab


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A machine that is on, its link whole."""
    with Machine(share=shared_with_machine()) as one:
        yield one


@pytest.fixture
def rig(machine: Machine, research_log: Lab, home: Path) -> Rig:
    """An empty research log here, and an empty root on the machine."""
    return Rig(research_log, machine, home, f"~/root-{uuid4().hex[:8]}")

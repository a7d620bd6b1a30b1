"""A simulator in a process of its own: `SimulatorProcess`, for tests that need one beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from .closing import Closing

REPOSITORY = Path(__file__).resolve().parents[2]


class SimulatorProcess(Closing):
    """`python -m tests.simulator` with the given words; ends with the block and with this process."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulator", "--json", *words],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the simulator ended with {self._process.wait()}")
        ready = json.loads(line)
        self.base_url: str = ready["base_url"]
        self.api_key: str = ready["api_key"]
        self.ssh_port: int = ready["ssh_port"]
        self.ssh_user: str = ready["ssh_user"]

    def control(self, place: str, body: Any = None, method: str = "") -> Any:
        """Use a switch, for instance control("faults", ["lose-answer"]); see control.py."""
        url = self.base_url.removesuffix("/api/v1") + f"/simulator/{place}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method or ("POST" if data else "GET"))
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def close(self) -> None:
        """End it and its machines."""
        self._process.communicate()

"""A client that we did not write, against the simulator: our rehearsal is not of our own reading alone.

Only in `make soak`: it installs lambda-ai-cloud-api-client (its command is `lai`) from the package registry
into a throw-away environment, and the daily tests install nothing that the runner does not need.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.simulator.machine import make_key
from tests.simulator.server import Simulator
from tests.support import is_soak

CLIENT = "lambda-ai-cloud-api-client==2.4.1"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not is_soak(), reason="installs a package that is not ours: SOAK=1"),
]


@dataclass
class Lai:
    """The command `lai` in an environment of its own, pointed at a simulated cloud."""

    cloud: Simulator
    venv: Path

    def __call__(self, *words: str) -> str:
        """What it prints; it has to succeed."""
        env = os.environ | {
            "LAMBDA_CLOUD_BASE_URL": f"http://127.0.0.1:{self.cloud.port}",
            "LAMBDA_CLOUD_TOKEN": self.cloud.api_key,
            "COLUMNS": "300",
        }
        line = [self.venv / "bin/lai", *words]
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def lai(tmp_path: Path) -> Iterator[Lai]:
    """A cloud as it was when the client was made from its schema (1.8.3), with regions that it knows."""
    uv, venv = find_uv_bin(), tmp_path / "venv"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, venv], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", venv / "bin/python", CLIENT], check=True)
    with Simulator(scale=0.001, deployment="old", rate_limit=False) as cloud:
        yield Lai(cloud, venv)


def test_lai_lists_starts_renames_restarts_and_stops(lai: Lai, tmp_path: Path) -> None:
    public = make_key(tmp_path / "id", "me@here")
    lai.cloud.account.add_ssh_key({"name": "mine", "public_key": public})
    assert "gpu_1x_a10" in lai("types")
    assert "lambda-stack-24-04" in lai("images")
    assert "mine" in lai("keys")

    start = ("start", "--instance-type", "gpu_1x_a10", "--region", "us-east-1", "--ssh-key", "mine")
    lai(*start, "--name", "theirs")
    (instance,) = lai.cloud.alive()
    assert (instance.name, instance.region, instance.ssh_key_names) == ("theirs", "us-east-1", ("mine",))

    lai.cloud.clock.advance(600)
    (row,) = json.loads(lai("ls", "--json"))
    assert (row["id"], row["status"]) == (instance.id, "active")
    assert instance.address in lai("get", instance.id)
    lai("rename", instance.id, "renamed")
    assert lai.cloud.alive()[0].name == "renamed"
    lai("restart", instance.id)
    lai("stop", instance.id)
    assert lai.cloud.alive() == []

"""What tests of rented machines share: a machine behind ssh beside a research log that runs on it."""

import json
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from tests.simulator.machine import Machine
from tests.support import PYTHON, Done, Lab, run_runner, runner_env


@dataclass
class Rig:
    """`lab` is here, `machine` is there; `ssh lambda` reaches it."""

    lab: Lab
    machine: Machine
    home: Path
    remote_root: str = "~/Fractal"

    @property
    def root(self) -> Path:
        """The root of jobs on the machine, seen from here."""
        return self.machine.home / self.remote_root.removeprefix("~/")

    @property
    def args(self) -> tuple[str, ...]:
        """The words that make the runner use this log and this machine."""
        return (
            *self.lab.args,
            f"ssh.config={self.machine.ssh_config}",
            f"remote.root={self.remote_root}",
            f"remote.uv_install={install_uv()}",
            "instance=gpu_1x_a10",
            "instance.python=/usr/bin/python3",
        )

    def command(self, *words: str) -> list[str]:
        """The runner's command line."""
        return [PYTHON, "-m", "runner", *self.args, *words]

    def env(self, **extra: str | None) -> dict[str, str]:
        """The environment of the person at this machine."""
        return runner_env(self.home, extra)

    def run(self, *words: str, timeout_s: float = 60, **extra: str | None) -> Done:
        """The runner, until it ends."""
        return run_runner(*self.args, *words, cwd=self.lab.root, env=self.env(**extra), timeout_s=timeout_s)

    def start(self, *words: str, **extra: str | None) -> subprocess.Popen[bytes]:
        """The runner, in a session of its own, while the test does something else."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.lab.root,
            env=self.env(**extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def here(self, run: str, phase: str = "phase1-test") -> Path:
        """The run's folder here."""
        return self.lab.log / phase / "runs" / run

    def there(self, run: str, phase: str = "phase1-test") -> Path:
        """The run's folder on the machine."""
        return self.root / "research-log" / phase / "runs" / run


def install_uv() -> str:
    """A stand-in for the seed's installer, which needs the internet."""
    return f"mkdir -p ~/.local/bin && ln -sf {shlex.quote(find_uv_bin())} ~/.local/bin/uv"


def shared_with_machine() -> tuple[str, ...]:
    """What of this host the machine has to see: uv."""
    return (str(Path(find_uv_bin()).parent),)


def result(done: Done) -> Mapping[str, Any]:
    """The last document: runner.result/1."""
    document: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert document["format"] == "runner.result/1", done
    return document

"""What tests share beside fixtures: a research log of their own, and the runner as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.shim import BEGIN, END

CHECKOUT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable

# A folder name that breaks whatever formats a path into a command without quoting it.
HOSTILE_NAME = "it's a \"dir\"; 'echo foo' $(touch x) `id` \\ *\n李明"

# Variables of the person who runs the tests that would change what the runner says or does.
NOT_OURS = (
    *("PYTHONDONTWRITEBYTECODE", "NO_COLOR", "FORCE_COLOR", "LAMBDA_API_KEY", "HF_TOKEN"),
    *("VIRTUAL_ENV", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),
)


def is_soak() -> bool:
    """Whether the long campaigns were asked for: `make soak`."""
    return os.environ.get("SOAK", "") not in ("", "0")


def soak_size(full: int, short: int) -> int:
    """`full` in `make soak`, `short` in `make test`."""
    return full if is_soak() else short


def framed(*documents: object) -> bytes:
    """These documents as a machine answers with them."""
    parts = [json.dumps(document).encode() for document in documents]
    body = b"".join(b"j %d\n" % len(part) + part for part in parts)
    return BEGIN + body + END % sum(map(len, parts))


@dataclass(frozen=True)
class Done:
    """How a run of the runner ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents on stdout, one a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def plan(self) -> dict[str, Any]:
        """The first document."""
        return self.documents[0]

    def __str__(self) -> str:
        return f"exit code {self.exit_code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass(frozen=True)
class Lab:
    """A research log outside the checkout: `root` is the folder that jobs run in."""

    root: Path
    venv: Path

    @property
    def log(self) -> Path:
        """The folder of the phases."""
        return self.root / "research-log"

    @property
    def conf(self) -> Path:
        """What --config-dir names."""
        return self.root / "conf"

    @property
    def args(self) -> tuple[str, ...]:
        """The words of a command line that make the runner look here."""
        return (
            *("--config-dir", str(self.conf)),
            f"paths.research_log={self.log}",
            f"paths.state={self.root / '.runner'}",
            f"paths.venv={self.venv}",
        )

    def add_phase(
        self,
        name: str = "phase1-test",
        script: str = "print('ran')",
        *,
        choice: str | None = None,
        args: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        entrypoint: str = "train.py",
        jobs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        """A phase `choice` (by default what is before the dash) with a job `train`; gives its folder."""
        folder = self.log / name
        (folder / entrypoint).parent.mkdir(parents=True, exist_ok=True)
        (folder / entrypoint).write_text(script)
        train = {"entrypoint": entrypoint, "args": args or {}, "env": env or {}}
        phase = {"name": name, "jobs": {"train": train} if jobs is None else jobs, **more}
        file = self.conf / "phase" / f"{choice or name.partition('-')[0]}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("# @package _global_\n" + json.dumps({"phase": phase}))
        return folder


def runner_env(home: Path, extra: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The environment the runner gets in tests; a None in `extra` takes a variable away."""
    env = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    env |= {"HOME": str(home), "COLUMNS": "80"}
    for name, value in (extra or {}).items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env


def consented(run: Callable[..., Done], *words: str, **more: Any) -> Done:
    """The plan, and then this very plan, as a program consents to what pays; where there is none, why."""
    shown = run(*words, "output=json", **more)
    return run(*words, f"confirm={shown.plan['digest']}", **more) if shown.exit_code == 0 else shown


def run_runner(
    *args: str, cwd: Path, env: Mapping[str, str], python: tuple[str, ...] = (PYTHON,), timeout_s: float = 60
) -> Done:
    """`python -m runner args…` as a process of its own."""
    done = subprocess.run(
        [*python, "-m", "runner", *args],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    out, err = (os.fsdecode(stream) for stream in (done.stdout, done.stderr))
    return Done(done.returncode, out, err)

"""The fixtures: a research log outside the checkout, the runner in process and out, hostile names."""

import gc
import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from uv import find_uv_bin

from tests.support import HOSTILE_NAME, Done, Lab, is_soak, run_runner, runner_env

# Composing makes many objects and little garbage: looking for it was a fifth of the unit tests' time.
gc.set_threshold(200_000, 20, 20)

# A machine with two cores is busy at times: what takes long is not wrong.
settings.register_profile("runner", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runner")

Runner = Callable[..., Done]


def pytest_report_header() -> str:
    """Which size the campaigns have."""
    return f"campaigns: {'full size (SOAK=1)' if is_soak() else 'short form; the full one is `make soak`'}"


@pytest.fixture
def hostile_dir(tmp_path: Path) -> Path:
    """A folder whose name holds spaces, quotes, a newline, Chinese and commands."""
    folder = tmp_path / HOSTILE_NAME
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def shared_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One virtual environment without packages, for every test that runs jobs."""
    venv = tmp_path_factory.mktemp("shared") / ".venv"
    subprocess.run([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    return venv


@pytest.fixture
def research_log(tmp_path: Path, shared_venv: Path) -> Lab:
    """An empty research log outside the checkout, with a configuration folder of its own."""
    lab = Lab(tmp_path / "lab", shared_venv)
    lab.log.mkdir(parents=True)
    (lab.conf / "phase").mkdir(parents=True)
    return lab


@pytest.fixture
def hostile_log(hostile_dir: Path, shared_venv: Path) -> Lab:
    """The same, in a folder whose name is hostile."""
    lab = Lab(hostile_dir, shared_venv)
    lab.log.mkdir(parents=True)
    (lab.conf / "phase").mkdir(parents=True)
    return lab


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def runner(tmp_path: Path, home: Path) -> Runner:
    """`runner(*args, env={…}, cwd=…)`: the runner as a process of its own."""

    def run(*args: str, env: dict[str, str | None] | None = None, cwd: Path = tmp_path) -> Done:
        return run_runner(*args, cwd=cwd, env=runner_env(home, env))

    return run


@pytest.fixture
def runner_here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """The same in this process: five times faster, for what does not depend on being a process."""
    from runner.cli import main

    caught = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}

    def run(*args: str, env: dict[str, str | None] | None = None, cwd: Path = tmp_path) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with monkeypatch.context() as patch:
            for name, value in runner_env(home, env).items():
                patch.setenv(name, value)
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["-m", *args])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                code = main()
            finally:
                for number, handler in caught.items():
                    signal.signal(number, handler)
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode("utf-8", "surrogateescape"))  # type: ignore[attr-defined]
        return Done(code, *texts)

    yield run

"""setup: an environment made once, and a second time in no time."""

import base64
import hashlib
import time
import zipfile
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import Lab


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one wheel, `tiny` 1.0, so that no network is needed."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny-1.0.dist-info"
    files = {
        "tiny.py": "ANSWER = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={sha256(text)},{len(text)}\n" for name, text in files.items())
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)
    return folder


def sha256(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize("place", ["research_log", "hostile_log"])
def test_a_second_setup_does_nothing_and_says_so(
    place: str, request: pytest.FixtureRequest, wheels: Path, runner: Runner
) -> None:
    lab: Lab = request.getfixturevalue(place)
    lab = Lab(lab.root, lab.root / "a venv")
    lab.add_phase(script="import tiny; print(tiny.ANSWER)", deps=["tiny>=1"])
    env = {"UV_NO_INDEX": "1", "UV_OFFLINE": "1"}
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", *lab.args)
    first = runner(*words, "action=setup", "confirm=true", env=env)
    assert first.exit_code == 0, first
    assert (lab.venv / "bin/python").exists()
    started = time.monotonic()
    second = runner(*words, "action=setup", "confirm=true", "output=json", env=env)
    seconds = time.monotonic() - started
    assert second.exit_code == 0, second
    assert "nothing to do" in second.stderr
    step = second.documents[1]["steps"][0]["seconds"]
    print(f"second setup: the step {step:.3f} s, the whole process {seconds:.3f} s")
    job = runner(*words, "action=train", "confirm=true", env=env)
    assert job.exit_code == 0, job
    assert "42" in job.stdout


def test_an_impossible_dependency_fails_in_uv_s_words(
    research_log: Lab, wheels: Path, runner: Runner
) -> None:
    lab = Lab(research_log.root, research_log.root / ".venv")
    folder = lab.add_phase(deps=["tiny>=2"])
    env = {"UV_NO_INDEX": "1", "UV_OFFLINE": "1"}
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", *lab.args)
    done = runner(*words, "action=train", "confirm=true", env=env)
    assert done.exit_code == 1, done
    assert "tiny" in done.stderr
    assert "setup" in done.stderr
    assert not (folder / "runs/0001-train/log").exists()  # the job was not started

"""setup: an environment made once, and a second time in no time."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.conftest import Runner
from tests.support import Lab, runner_env
from tests.wheels import make_project, make_wheel

OFFLINE: dict[str, str | None] = {"UV_NO_INDEX": "1", "UV_OFFLINE": "1"}


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with `tiny` 1.0 and 1.1, so that no network is needed."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "1.1"):
        make_wheel(folder, "tiny", version, "ANSWER = 42")
    return folder


@pytest.fixture
def lab(research_log: Lab) -> Lab:
    """With an environment of its own."""
    return Lab(research_log.root, research_log.root / ".venv")


@pytest.mark.parametrize("place", ["research_log", "hostile_log"])
def test_a_second_setup_does_nothing_and_says_so(
    place: str, request: pytest.FixtureRequest, wheels: Path, runner: Runner
) -> None:
    lab: Lab = request.getfixturevalue(place)
    lab = Lab(lab.root, lab.root / "a venv")
    lab.add_phase(script="import tiny; print(tiny.ANSWER)", deps=["tiny>=1"])
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", *lab.args)
    first = runner(*words, "action=setup", "confirm=true", env=OFFLINE)
    assert first.exit_code == 0, first
    assert (lab.venv / "bin/python").exists()
    started = time.monotonic()
    second = runner(*words, "action=setup", "confirm=true", "output=json", env=OFFLINE)
    seconds = time.monotonic() - started
    assert second.exit_code == 0, second
    assert "nothing to do" in second.stderr
    step = second.documents[1]["steps"][0]["seconds"]
    print(f"second setup: the step {step:.3f} s, the whole process {seconds:.3f} s")
    job = runner(*words, "action=train", "confirm=true", env=OFFLINE)
    assert job.exit_code == 0, job
    assert "42" in job.stdout


def test_an_impossible_dependency_fails_in_uv_s_words(lab: Lab, wheels: Path, runner: Runner) -> None:
    folder = lab.add_phase(deps=["tiny>=2"])
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", *lab.args)
    done = runner(*words, "action=train", "confirm=true", env=OFFLINE)
    assert done.exit_code == 1, done
    assert "tiny" in done.stderr
    assert "setup" in done.stderr
    assert not (folder / "runs/0001-train/log").exists()  # the job was not started


def test_the_phase_s_own_package_and_its_list_are_installed_once(
    lab: Lab, wheels: Path, runner: Runner
) -> None:
    make_wheel(wheels, "listed", "2.0", "ANSWER = 43")
    folder = lab.add_phase(script="import ours, listed; print(ours.ANSWER, listed.ANSWER)")
    project = make_project(folder, "ours", "from tiny import ANSWER", requires=("tiny",))
    (folder / "requirements.txt").write_text("listed\n")
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", "confirm=true", *lab.args)
    job = runner(*words, "action=train", env=OFFLINE)
    assert job.exit_code == 0, job
    assert "42 43" in job.stdout
    both = ["nothing to do: all packages are there", "nothing to do: the phase's own package is there"]
    again = runner(*words, "action=setup", env=OFFLINE)
    assert [line for line in again.stdout.splitlines() if line in both] == both, again
    project.write_text(project.read_text().replace("tiny", "tiny>=1.1"))
    assert both[1] not in runner(*words, "action=setup", env=OFFLINE).stdout.splitlines()


def test_what_preflight_locked_for_this_machine_is_installed_and_seen_to(
    lab: Lab, wheels: Path, runner: Runner
) -> None:
    lab.add_phase(script="import tiny; print(tiny.ANSWER)", deps=["tiny"])
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", *lab.args)
    env = OFFLINE | {"UV_FIND_LINKS": str(wheels), "UV_CACHE_DIR": str(lab.root / "cache")}
    assert runner(*words, "action=preflight", "confirm=true", env=env).exit_code == 0
    make_wheel(wheels, "tiny", "1.2", "ANSWER = 44")  # newer than what was tested
    job = runner(*words, "action=train", "confirm=true", env=env)
    assert job.exit_code == 0, job
    assert "42" in job.stdout.splitlines()

    def drift() -> list[str]:
        told = runner(*words, "action=doctor", "output=json", env=env).documents[-1]["diagnoses"]
        return [d["evidence"] for d in told if "environment" in d["symptom"]]

    assert drift() == []
    uv = (find_uv_bin(), "pip", "install", "--quiet", "--python", lab.venv, "--find-links", wheels)
    subprocess.run([*uv, "tiny==1.0"], check=True, env=runner_env(lab.root, env))
    assert drift() == ["tiny 1.0 for 1.1"]
    (lock,) = (lab.root / ".runner/locks").iterdir()
    setup = runner(*words, "action=setup", "output=script", env=env)
    lock.write_text(re.sub("1.1", "1.0", lock.read_text()))
    done = subprocess.run(["bash"], input=setup.stdout, capture_output=True, text=True)
    assert (done.returncode, "not the one that was tested" in done.stderr) == (65, True)


def test_data_are_fetched_here_too_once_and_again_after_a_cut(lab: Lab, runner: Runner) -> None:
    command = "echo x >> tries; echo half > data.bin; [ -e ../allowed ] && echo whole > data.bin"
    folder = lab.add_phase(
        script="print(open('research-log/phase1-test/data.bin').read())",
        data={"command": command, "done": "data.bin"},
    )
    cut = runner("phase=phase1", "action=train", "confirm=true", *lab.args)
    assert cut.exit_code == 1 and "do it again to go on" in cut.stdout + cut.stderr, cut
    assert not (folder / "runs/0001-train/log").exists()
    (lab.log / "allowed").write_text("")
    for _ in range(2):
        done = runner("phase=phase1", "action=train", "confirm=true", *lab.args)
        assert done.exit_code == 0 and "whole" in done.stdout.splitlines(), done
    assert (folder / "tries").read_text() == "x\nx\n"


def test_a_mac_has_no_sha256sum(lab: Lab, wheels: Path, runner: Runner, tmp_path: Path) -> None:
    lab.add_phase(script="import tiny; print(tiny.ANSWER)", deps=["tiny"])
    (tmp_path / "bin").mkdir()
    for tool in ("openssl", "sha256sum"):  # shasum is what is left
        (tmp_path / "bin" / tool).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / "bin" / tool).chmod(0o755)
    env = OFFLINE | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    words = ("phase=phase1", f"instance.find_links={str(wheels)!r}", "confirm=true", *lab.args)
    done = runner(*words, "action=train", env=env)
    assert done.exit_code == 0 and "42" in done.stdout.splitlines(), done
    assert re.fullmatch(r"[0-9a-f]{64}\n", (lab.venv / "installed.sha256").read_text())

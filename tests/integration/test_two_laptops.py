"""Two laptops, or two clones, use one machine: what one of them may do to the runs of the other."""

import os
from pathlib import Path

import pytest

from tests.remote import Rig

TRAIN = ("phase=phase1", "action=train", "confirm=true")


@pytest.fixture
def theirs(rig: Rig) -> Path:
    """The folder, on the machine, of a run 0001-train that another laptop started; its code is there."""
    folder = rig.there("0001-train")
    folder.mkdir(parents=True)
    (folder / "token").write_text("another\n")
    (folder / "artifacts").write_bytes(b"their/\0")
    (folder.parent.parent / "train.py").write_text("theirs")
    (folder.parent / "0007-mutate").mkdir()
    os.system(f"chown -R --reference={rig.machine.home} '{rig.root}'")
    return folder


def test_a_job_whose_run_is_anothers_is_refused_before_it_has_changed_anything(
    rig: Rig, theirs: Path
) -> None:
    rig.lab.add_phase(script="print('ours')", artifacts=["ours/"])
    refused = rig.run(*TRAIN)
    assert refused.exit_code == 77, refused
    assert "run=0008" in refused.stdout
    assert (theirs.parent.parent / "train.py").read_text() == "theirs"
    assert (theirs / "artifacts").read_bytes() == b"their/\0"
    assert sorted(path.name for path in theirs.iterdir()) == ["artifacts", "token"]
    stop = rig.run("phase=phase1", "action=stop", "output=json")
    assert "not the run that was started from here" in stop.plan["reason"]
    assert rig.run(*TRAIN, "run=8").exit_code == 0
    assert (rig.there("0008-train") / "log").read_text() == "ours\n"


def test_a_clone_of_the_source_is_refused_as_well(rig: Rig, theirs: Path) -> None:
    rig.lab.add_phase(source={"git": "/nowhere/at/all", "ref": "0" * 40})
    refused = rig.run(*TRAIN)
    assert refused.exit_code == 77, refused
    assert (theirs.parent.parent / "train.py").read_text() == "theirs"

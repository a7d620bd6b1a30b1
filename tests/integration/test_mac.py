"""What runs on the near side, run with the tools of a Mac: those of GNU are absent, rsync is 2.6.9."""

import shutil
import subprocess
from pathlib import Path

import pytest

from runner.plan.command import SHA256
from tests.remote import Rig, result

# What a Mac has not, or has under another name.
NOT_ON_A_MAC = ("flock", "setsid", "sha256sum", "timeout", "stdbuf", "nproc", "tac", "md5sum", "ionice")

# The options that 2.6.9 and the openrsync of macOS 15 know, of those that may be used.
RSYNC = """#!/bin/bash
given=("$@")
while [ $# -gt 0 ]; do
  case "$1" in
    -e) shift;;
    --from0|--files-from=*|--partial-dir=*|--progress|--rsync-path=*|--no-implied-dirs|--sparse) ;;
    --ignore-existing|-[lptRc]*) ;;
    -*) echo "rsync: $1: unknown option" >&2; exit 1;;
  esac; shift
done
exec RSYNC "${given[@]}"
"""


@pytest.fixture(params=["openssl", "no openssl"])
def tools(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A PATH of such tools alone."""
    missing = {*NOT_ON_A_MAC, "rsync", *(("openssl",) if request.param == "no openssl" else ())}
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in (path for place in ("/usr/bin", "/bin") for path in Path(place).iterdir()):
        if tool.name not in missing and not (folder / tool.name).exists():
            (folder / tool.name).symlink_to(tool)
    (folder / "rsync").write_text(RSYNC.replace("RSYNC", str(shutil.which("rsync"))))
    (folder / "rsync").chmod(0o755)
    return str(folder)


def test_a_job_on_a_machine_comes_home(rig: Rig, tools: str) -> None:
    script = "open('research-log/phase1-test/out.pt', 'w').write('x'); print('ran'); raise SystemExit(3)"
    phase = rig.lab.add_phase(script=script, artifacts=["out.pt"], inputs=["input.bin"])
    (phase / "input.bin").write_text("pushed")
    done = rig.run("phase=phase1", "action=train", "confirm=true", "output=json", PATH=tools)
    assert [step["exit_code"] for step in result(done)["steps"]] == [0, 0, 0, 3, 0], done
    assert ((phase / "out.pt").read_text(), (phase / "run.log").read_text()) == ("x", "ran\n")
    assert "not found" not in done.stderr
    attached = rig.run("action=logs", PATH=tools)
    assert (attached.exit_code, attached.stdout) == (3, "ran\n")


def test_checksums_have_their_stand_ins(tools: str) -> None:
    def bash(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", text], env={"PATH": tools}, capture_output=True, text=True, timeout=20
        )

    hashed = "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447"
    assert bash(f"echo hello world | {SHA256}").stdout[:64] == hashed

"""Jobs on a rented machine, from the command line to the artifacts, through whatever happens to the link."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.remote import Rig, result, shared_with_machine
from tests.simulator.machine import Machine
from tests.support import HOSTILE_NAME, Lab, soak_size
from tests.wheels import make_project

TRAIN = ("phase=phase1", "action=train")
FINISHED = (*TRAIN, "confirm=true", "output=json")


@pytest.fixture
def own(research_log: Lab, home: Path) -> Iterator[Rig]:
    """A machine that no other test sees: its link will be cut, its power will fail."""
    with Machine(share=shared_with_machine()) as machine:
        yield Rig(research_log, machine, home)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(path: Path, limit_s: float = 40) -> None:
    deadline = time.monotonic() + limit_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


# ------------------------------------------------------------------------------------ the plan


def test_a_plan_asks_the_machine_nothing_and_writes_nothing(rig: Rig) -> None:
    rig.lab.add_phase(artifacts=["out/"])
    before = (files_below(rig.lab.root), rig.machine.stats()["accepted"])
    shown = rig.run(*TRAIN, "output=json")
    assert shown.exit_code == 0, shown
    assert [step["name"] for step in shown.plan["steps"]] == ["sync", "setup", "start", "follow", "backup"]
    assert shown.plan["instance"] == {
        "name": "lambda", "provider": "lambda", "type": "gpu_1x_a10", "usd_per_hour": 1.29
    }  # fmt: skip
    assert (files_below(rig.lab.root), rig.machine.stats()["accepted"]) == before


def test_the_script_does_what_the_runner_does(rig: Rig) -> None:
    folder = rig.lab.add_phase(
        script="open('research-log/phase1-test/out', 'w').write('1'); raise SystemExit(3)",
        artifacts=["out"],
    )
    script = rig.run(*TRAIN, "output=script")
    done = subprocess.run(["bash"], input=script.stdout, text=True, capture_output=True, env=rig.env())
    assert done.returncode == 3, done
    assert (folder / "out").read_text() == "1"
    again = subprocess.run(["bash"], input=script.stdout, text=True, capture_output=True, env=rig.env())
    assert again.returncode == 77


# ------------------------------------------------------------------------------------ a whole job


@pytest.mark.soak
def test_a_job_comes_home_whole(rig: Rig) -> None:
    script = """
import pathlib, sys
out = pathlib.Path(__file__).parent / "out"
(out / "deep er").mkdir(parents=True)
(out / "deep er" / "a\\nb").write_text("kept")
(out / "last").symlink_to("deep er")
(out / "elsewhere").symlink_to("/etc/hostname")
with open(out / "sparse", "wb") as file:
    file.truncate(SIZE)
print("one"); print("two", file=sys.stderr)
raise SystemExit(3)
""".replace("SIZE", str(soak_size(2_000_000_000, 50_000_000)))
    folder = rig.lab.add_phase(script=script, artifacts=["out/", "not-there.jsonl"])
    done = rig.run(*FINISHED, timeout_s=300)
    assert done.exit_code == 3, done
    assert (rig.here("0001-train") / "log").read_bytes() == b"one\ntwo\n"
    assert sha256(rig.here("0001-train") / "log") == sha256(rig.there("0001-train") / "log")
    assert (folder / "run.log").read_bytes() == b"one\ntwo\n"
    assert (folder / "out/deep er/a\nb").read_text() == "kept"
    assert str((folder / "out/last").readlink()) == "deep er"
    assert (folder / "out/sparse").stat().st_blocks * 512 < 1_000_000
    assert not os.path.lexists(folder / "out/elsewhere")
    assert "not brought home: out/elsewhere" in done.stderr
    document = result(done)
    assert (document["exit_code"], document["run"], document["ok"]) == (3, "0001-train", False)
    assert [step["exit_code"] for step in document["steps"]] == [0, 0, 0, 3, 0]
    assert document["artifacts"] == [str(folder / "out")]


def test_the_second_setup_finds_nothing_to_do_in_half_a_second(rig: Rig) -> None:
    rig.lab.add_phase()
    assert rig.run("phase=phase1", "action=setup", "confirm=true").exit_code == 0
    seconds = []
    for _ in range(3):
        document = result(rig.run("phase=phase1", "action=setup", "confirm=true", "output=json"))
        seconds += [step["seconds"] for step in document["steps"]]
    assert min(seconds) < 0.5


def test_hostile_names_are_names(research_log: Lab, machine: Machine, home: Path) -> None:
    rig = Rig(research_log, machine, home, f"~/{HOSTILE_NAME}")
    name = f"phase1-{HOSTILE_NAME}"
    value = "it's; $(touch x) `id`\n李明"
    script = (
        "import os, sys; print(sys.argv[1:], os.environ['V']); open(sys.argv[0] + '.out', 'w').write('x')"
    )
    folder = rig.lab.add_phase(
        name, script, args={"a": value}, env={"V": value}, choice="p", artifacts=["train.py.out"]
    )
    done = rig.run("phase=p", "action=train", "confirm=true")
    assert done.exit_code == 0, done
    assert (folder / "run.log").read_text() == f"{['--a=' + value]} {value}\n"
    assert (folder / "train.py.out").read_text() == "x"


def test_a_secret_arrives_and_is_nowhere_to_be_found(rig: Rig) -> None:
    secret = "hf_s3cr'et $(x)\n\"李明"
    script = """
import hashlib, os, time
print(hashlib.sha256(os.environ["HF_TOKEN"].encode()).hexdigest(), flush=True)
time.sleep(3)
"""
    rig.lab.add_phase(script=script, env={"HF_TOKEN": None})
    shown = rig.run(*TRAIN, "output=json", HF_TOKEN=secret)
    running = rig.start(*FINISHED, HF_TOKEN=secret)
    seen = set()
    while running.poll() is None:  # the machine's processes are among them
        seen |= command_lines()
        time.sleep(0.005)
    output = running.communicate()[0]
    assert any(b"-\0--root" in line for line in seen), "the machine's own processes were looked at"
    assert running.returncode == 0, output
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in output
    assert shown.plan["digest"] in output.decode()  # the value is no part of the plan
    folders = (rig.machine.home, rig.lab.root, rig.home)
    written = b"".join(p.read_bytes() for r in folders for p in r.rglob("*") if p.is_file())
    for place in (*seen, output, written, shown.stdout.encode()):
        assert b"hf_s3cr" not in place


def command_lines() -> set[bytes]:
    """The command lines of all processes that there are at this moment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.add(path.read_bytes())
    return found


def test_start_may_be_asked_for_twice(rig: Rig) -> None:
    rig.lab.add_phase(script="import time; print('began'); time.sleep(2)")
    plan = rig.run(*TRAIN, "output=json").plan
    assert rig.run(*FINISHED).exit_code == 0
    start = next(step["command"] for step in plan["steps"] if step["name"] == "start")
    for _ in range(2):
        assert subprocess.run(["bash", "-c", start]).returncode == 0
    assert (rig.there("0001-train") / "log").read_text() == "began\n"


# ------------------------------------------------------------------------------------ sync


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def sync(rig: Rig) -> set[str]:
    done = rig.run("phase=phase1", "action=sync", "confirm=true")
    assert done.exit_code == 0, done
    return files_below(rig.root / "research-log/phase1-test")


def test_sync_pushes_what_git_would_carry_and_removes_what_vanished(rig: Rig) -> None:
    folder = rig.lab.add_phase(artifacts=["checkpoints/"])
    git(rig.lab.root, "init", "-q")
    (rig.lab.root / ".gitignore").write_text("*.tmp\n")
    for name in ("a b.py", "old.py", "x.tmp", "checkpoints/best.pt", "runs/0001-train/log", "weights.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    git(rig.lab.root, "add", "research-log/phase1-test/old.py")
    assert sync(rig) == {"train.py", "a b.py", "old.py", "weights.pt"}
    there = rig.root / "research-log/phase1-test"
    (there / "checkpoints").mkdir()
    (there / "checkpoints/kept.pt").write_text("made there")
    (folder / "old.py").unlink()
    (folder / "a b.py").write_text("A B")  # as long as before, in the same second
    assert sync(rig) == {"train.py", "a b.py", "weights.pt", "checkpoints/kept.pt"}
    assert (there / "a b.py").read_text() == "A B"


def test_inputs_go_along_another_phases_too(rig: Rig) -> None:
    rig.lab.add_phase(artifacts=["out/"], inputs=["out/start.pt", "../phase0-base/checkpoints"])
    for name in ("phase1-test/out/start.pt", "phase1-test/out/other.pt", "phase0-base/checkpoints/last.pt"):
        (rig.lab.log / name).parent.mkdir(parents=True, exist_ok=True)
        (rig.lab.log / name).write_text(name)
    assert sync(rig) == {"train.py", "out/start.pt"}
    assert (rig.root / "research-log/phase0-base/checkpoints/last.pt").is_file()
    (rig.root / "research-log/phase1-test/out/start.pt").write_text("phase1-test/out/START.pt")
    sync(rig)
    assert (rig.root / "research-log/phase1-test/out/start.pt").read_text() == "phase1-test/out/start.pt"


def test_a_folder_with_a_clone_in_it_is_not_pushed(rig: Rig) -> None:
    folder = rig.lab.add_phase()
    for inside in (folder / "vendor", folder):
        git(rig.lab.root, "init", "-q") if inside == folder / "vendor" else None
        inside.mkdir(exist_ok=True)
        git(inside, "init", "-q")
        (inside / "x.py").write_text("x")
        git(inside, "add", "x.py")
        git(inside, "commit", "-qm", "x")
        refused = rig.run("phase=phase1", "action=sync")
        assert refused.exit_code == 64, refused
        assert "source" in refused.stderr


MADE_THERE = """
set -e; export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t
git config --global protocol.file.allow always
mkdir -p served/inner served/outer
cd ~/served/inner; git init -q; echo x >inner.py; git add .; git commit -qm 1
cd ~/served/outer; git init -q; git submodule --quiet add ~/served/inner sub
echo "import os; print('cloned', os.path.exists('research-log/phase1-test/sub/inner.py'))" >train.py
git add .; git commit -qm 2; git rev-parse HEAD
echo "raise SystemExit(9)" >train.py; git commit -qam 3"""


def test_a_source_is_cloned_there_with_its_submodules_at_the_commit(own: Rig) -> None:
    made = own.machine.ssh(MADE_THERE)
    assert made.returncode == 0, made
    source = {"git": "/home/ubuntu/served/outer", "ref": made.stdout.strip()}
    own.lab.add_phase(source=source)
    for _ in range(2):
        done = own.run(*FINISHED)
        assert done.exit_code == 0, done
        assert (own.here(str(result(done)["run"])) / "log").read_text() == "cloned True\n"


TWO_COMMITS = """
set -e; export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t
cd served/ours; git init -q; echo "import ours; print(ours.ANSWER)" >train.py
git add .; git commit -qm 1; git rev-parse HEAD
sed -i s/42/43/ lib/ours.py; git commit -qam 2; git rev-parse HEAD"""


def test_a_source_that_is_a_package_is_installed_there_at_its_commit(own: Rig) -> None:
    served = own.machine.home / "served/ours"
    served.mkdir(parents=True)
    make_project(served, "ours", "ANSWER = 42")
    os.system(f"chown -R --reference={own.machine.home} {own.machine.home}/served")
    made = own.machine.ssh(TWO_COMMITS)
    assert made.returncode == 0, made
    first, second = made.stdout.split()

    def at(commit: str) -> tuple[str, ...]:
        own.lab.add_phase(source={"git": "/home/ubuntu/served/ours", "ref": commit})
        return ("phase=phase1", "confirm=true")

    early = own.run(*at(first), "action=setup")
    assert early.exit_code == 0 and early.stdout.splitlines()[-1].startswith("phase.source is not")
    for commit, answer in ((first, "42"), (first, "42"), (second, "43")):
        done = own.run(*at(commit), "action=train", "output=json")
        assert done.exit_code == 0, done.stderr
        assert (own.here(str(result(done)["run"])) / "log").read_text() == f"{answer}\n"
    again = own.run(*at(second), "action=setup")
    assert "nothing to do: the phase's own package is there" in again.stdout.splitlines(), again


# ------------------------------------------------------------------------------------ setup


def test_data_are_fetched_once_and_again_after_a_cut(rig: Rig) -> None:
    command = "echo x >> tries; echo half > data.bin; [ -e ../../allowed ] && echo whole > data.bin"
    rig.lab.add_phase(data={"command": command, "done": "data.bin"})
    setup = ("phase=phase1", "action=setup", "confirm=true")
    assert rig.run(*setup).exit_code == 1
    (rig.root / "allowed").write_text("")
    for _ in range(2):
        assert rig.run(*setup).exit_code == 0
    there = rig.root / "research-log/phase1-test"
    assert (there / "data.bin").read_text() == "whole\n"
    assert (there / "tries").read_text() == "x\nx\n"


def test_a_package_that_cannot_be_installed_is_named(rig: Rig) -> None:
    rig.lab.add_phase(deps=["no-such-package-at-all @ file:///nowhere/at/all.whl"])
    done = rig.run("phase=phase1", "action=setup", "confirm=true", timeout_s=120)
    assert done.exit_code not in (0, 70), done
    assert "no-such-package-at-all" in done.stdout


def test_an_installer_that_finds_apt_locked_is_tried_again(own: Rig) -> None:
    own.lab.add_phase()
    locked = "[ -e ~/unlocked ] || { touch ~/unlocked; echo 'E: Could not get lock' >&2; false; }"
    uv = own.args[own.args.index(next(a for a in own.args if a.startswith("remote.uv_install=")))]
    install = f"{locked} && {uv.partition('=')[2]}"
    done = own.run("phase=phase1", "action=setup", "confirm=true", f"remote.uv_install={install}")
    assert done.exit_code == 0, done
    assert "Could not get lock" in done.stdout


# ------------------------------------------------------------------------------------ run, logs, stop


def test_a_command_is_logged_like_a_job_without_phase_and_environment(rig: Rig) -> None:
    done = rig.run(
        "action=run", 'command=pwd; nvidia-smi -L; echo "a  b"; exit 5', "confirm=true", "output=json"
    )
    assert done.exit_code == 5, done
    log = (rig.lab.log / "runs/0001-run/log").read_text().splitlines()
    assert (log[0], log[1][:6], log[2]) == (f"/home/ubuntu/{rig.remote_root[2:]}", "GPU 0:", "a  b")
    assert (rig.lab.log / "run.log").readlink() == Path("runs/0001-run/log")


def test_interrupting_the_follower_detaches_and_logs_attach_again(rig: Rig) -> None:
    script = "import time\nfor n in range(8): print(n, flush=True); time.sleep(0.5)\nraise SystemExit(3)"
    rig.lab.add_phase(script=script)
    running = rig.start(*TRAIN, "confirm=true")
    wait_for(rig.there("0001-train") / "pid")
    wait_for(rig.here("0001-train") / "log")
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=10)[0].decode()
    assert running.returncode == 130, said
    assert "Detached: 0001-train runs on, on lambda ($1.29/h)" in said
    assert re.search("action=logs .*run=0001", said)
    assert re.search("action=stop .*run=0001", said)
    assert not (rig.here("0001-train") / "result.json").exists()
    attached = rig.run(*TRAIN[:1], "action=logs")
    assert attached.exit_code == 3, attached
    assert attached.stdout.split() == [str(n) for n in range(8)]
    assert (rig.here("0001-train") / "exit_code").read_text() == "3\n"
    left = json.loads((rig.here("0001-train") / "result.json").read_text())
    plan = json.loads((rig.here("0001-train") / "plan.json").read_text())
    assert (left["digest"], left["run"]) == (plan["digest"], "0001-train")
    assert (left["ok"], left["exit_code"]) == (False, 3)
    assert left["log"] == str(rig.here("0001-train") / "log")
    assert rig.run("action=logs", "lines=1").exit_code == 0
    assert json.loads((rig.here("0001-train") / "result.json").read_text()) == left


def test_logs_need_neither_phase_nor_machine_for_what_is_here(own: Rig) -> None:
    own.lab.add_phase(script="for n in range(9): print(n)")
    assert own.run(*FINISHED).exit_code == 0
    own.machine.halt()
    assert own.run("action=logs", "lines=2").stdout == "7\n8\n"
    assert own.run("action=logs").stdout.split() == [str(n) for n in range(9)]
    missing = own.run("action=logs", "run=4")
    assert missing.exit_code == 64
    assert "0001-train" in missing.stderr


def test_stop_ends_the_run_and_leaves_the_machine(rig: Rig) -> None:
    rig.lab.add_phase(script="import time; print('up', flush=True); time.sleep(60)")
    running = rig.start(*TRAIN, "confirm=true")
    wait_for(rig.there("0001-train") / "pid")
    assert rig.run("action=stop").stdout.startswith("Plan p")
    assert rig.run("action=stop", "confirm=true").exit_code == 0
    running.communicate(timeout=20)
    assert running.returncode == 143
    nothing = rig.run("action=stop", "output=json", "confirm=true")
    assert nothing.plan["reason"] == "0001-train ended with exit code 143"


def test_a_reboot_loses_the_run_and_doctor_says_so(own: Rig) -> None:
    own.lab.add_phase(script="import time; print('up', flush=True); time.sleep(60)")
    running = own.start(*TRAIN, "confirm=true")
    wait_for(own.there("0001-train") / "pid")
    wait_for(own.here("0001-train") / "log")
    time.sleep(1)
    own.machine.reboot()
    said = running.communicate(timeout=40)[0].decode()
    assert running.returncode == 137, said
    assert "no exit code was left" in said
    diagnosis = own.run("phase=phase1", "action=doctor", "output=json").documents[0]["diagnoses"][0]
    assert diagnosis["symptom"] == "the run is lost"
    assert "action=train" in diagnosis["remedy"]
    own.machine.cut()
    unreachable = own.run("phase=phase1", "action=doctor", "output=json").documents[0]["diagnoses"]
    assert "setup-ssh" in unreachable[-1]["remedy"]


# ------------------------------------------------------------------------------------ campaigns


@pytest.mark.soak
def test_cuts_and_resets_lose_no_byte_and_start_nothing_twice(own: Rig) -> None:
    """200 MB of numbered lines through 50 cuts of 3 s and 50 resets; a tenth of it in the short form."""
    num, cuts = soak_size(2_000_000, 200_000), soak_size(50, 3)
    pauses = f"import time\nfor n in range({num}):\n print(f'{{n:08d}} ' + 'x' * 90)\n"
    pauses += f" if n % 2000 == 0: time.sleep({soak_size(160, 12)} / ({num} / 2000))\nraise SystemExit(7)"
    own.lab.add_phase(script="print('started')\n" + pauses)
    running = own.start(*TRAIN, "confirm=true")
    wait_for(own.there("0001-train") / "pid")
    for _ in range(cuts):
        time.sleep(random.uniform(0.1, 1.5))
        own.machine.cut()
        time.sleep(3)
        own.machine.heal()
        time.sleep(random.uniform(0.1, 1.0))
        own.machine.reset()
    said = running.communicate(timeout=600)[0]
    assert running.returncode == 7, said[-2000:]
    here, there = own.here("0001-train") / "log", own.there("0001-train") / "log"
    assert sha256(here) == sha256(there)
    lines = here.read_bytes().splitlines()
    assert lines[0] == b"started"
    assert [line[:8] for line in lines[1:]] == [b"%08d" % n for n in range(num)]


@pytest.mark.soak
def test_a_killed_runner_is_taken_up_where_it_was(own: Rig) -> None:
    """The runner killed by SIGKILL 20 times at random points, its follower with it; three times in short."""
    kills = soak_size(20, 3)
    num = soak_size(200_000, 60_000)
    script = f"import time\nfor n in range({num}):\n print(n)\n if n % 1000 == 0: time.sleep(0.1)\n"
    script += "raise SystemExit(7)"
    own.lab.add_phase(script=script)
    running = own.start(*TRAIN, "confirm=true")
    wait_for(own.there("0001-train") / "pid")
    for number in range(kills):
        time.sleep(random.uniform(0.0, 1.0))
        if number % 2 == 0:  # now all that it started, now the runner alone
            kill(running)
        else:
            running.kill()
            running.wait()
        running = own.start("phase=phase1", "action=logs")
    running.communicate(timeout=120)
    assert running.returncode == 7
    here, there = own.here("0001-train") / "log", own.there("0001-train") / "log"
    assert sha256(here) == sha256(there)
    assert here.read_bytes() == b"".join(b"%d\n" % n for n in range(num))


@pytest.mark.soak
def test_a_backup_that_is_interrupted_ends_whole(own: Rig) -> None:
    """Interrupted 30 times at random points, by SIGKILL, resets, cuts and a full disk here in turn."""
    script = """
import os, pathlib
out = pathlib.Path(__file__).parent / "checkpoints"
out.mkdir()
for n in range(6): (out / f"step {n}.pt").write_bytes(os.urandom(SIZE))
"""
    size = soak_size(60_000_000, 15_000_000)
    folder = own.lab.log / "phase1-test"
    with small_disk(folder, 8 * size):
        own.lab.add_phase(script=script.replace("SIZE", str(size)), artifacts=[])
        assert own.run(*FINISHED).exit_code == 0
        own.lab.add_phase(script=script, artifacts=["checkpoints/"])
        there = own.root / "research-log/phase1-test/checkpoints"
        whole = {path.name: sha256(path) for path in there.iterdir()}
        met = dict.fromkeys((how.__name__ for how in INTERRUPTIONS), 0)
        for number in range(soak_size(30, 4)):
            how = INTERRUPTIONS[number % len(INTERRUPTIONS)]
            for path in (folder / "checkpoints").glob("*"):
                path.unlink()  # so that there is something to interrupt
            backup = own.start("phase=phase1", "action=backup", "confirm=true")
            time.sleep(random.uniform(0.5, soak_size(2500, 1200) / 1000))
            how(own)
            met[how.__name__] += backup.poll() is None
            kill(backup)
            for path in (folder / "checkpoints").glob("*"):
                assert sha256(path) == whole.get(path.name), f"{path.name} is half there: {how.__name__}"
        print("interruptions that met a backup at work:", met)
        done = own.run("phase=phase1", "action=backup", "confirm=true", timeout_s=300)
        assert done.exit_code == 0, done
        assert {path.name: sha256(path) for path in (folder / "checkpoints").iterdir()} == whole
        assert not (folder / "runs/.incoming").exists()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """The folder on a file system of its own, of so many bytes. Needs root, and fails without."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def kill(running: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the runner and to all that it started."""
    for pid in family_of(running.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.wait()


def nothing_else(own: Rig) -> None:
    """The kill alone."""
    del own


def reset(own: Rig) -> None:
    """All connections are reset, and the runner has begun to try again."""
    own.machine.reset()
    time.sleep(0.2)


def cut(own: Rig) -> None:
    """Nothing comes through for a while, then the rest does."""
    own.machine.cut()
    time.sleep(random.uniform(0.5, 3))
    own.machine.heal()
    time.sleep(random.uniform(0, 1))


def full_disk(own: Rig) -> None:
    """No byte is left here for a while."""
    folder = own.lab.log / "phase1-test"
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(1 << 20)):
            pass
    assert shutil.disk_usage(folder).free < 1 << 20
    time.sleep(random.uniform(0.5, 3))
    (folder / "filler").unlink()
    time.sleep(random.uniform(0, 1))


INTERRUPTIONS = (nothing_else, reset, cut, full_disk)


def test_what_a_killed_rsync_left_does_not_fill_the_disk(rig: Rig) -> None:
    script = "open('research-log/phase1-test/a.pt', 'w').write('x' * 1_000_000)"
    folder = rig.lab.log / "phase1-test"
    with small_disk(folder, 3_800_000):
        rig.lab.add_phase(script=script, artifacts=["a.pt"])
        left = folder / "runs/.incoming/files"
        left.mkdir(parents=True)
        for name in (".a.pt.gB3x0Z", ".a.pt.00aaBB"):
            (left / name).write_bytes(bytes(1_500_000))
        done = rig.run(*TRAIN, "confirm=true")
        assert done.exit_code == 0, done
        assert (folder / "a.pt").stat().st_size == 1_000_000


def test_a_checkpoint_that_is_being_written_is_never_half_trusted(own: Rig) -> None:
    script = """
import os, pathlib, time
phase = pathlib.Path(__file__).parent
(phase / "out").mkdir()
end = time.monotonic() + 12
number = 0
with open(phase / "metrics.jsonl", "a", buffering=1) as metrics:
    while time.monotonic() < end:
        number += 1
        with open(phase / "out/state.pt", "wb") as file:
            for _ in range(20): file.write(bytes([number % 256]) * 500_000); time.sleep(0.02)
        for n in range(50): metrics.write('{"step": 1}\\n')
        time.sleep(1.2)
"""
    folder = own.lab.add_phase(script=script, artifacts=["out/", "metrics.jsonl"])
    running = own.start(*TRAIN, "confirm=true")
    wait_for(own.root / "research-log/phase1-test/out/state.pt")
    for _ in range(3):
        own.run("phase=phase1", "action=backup", "confirm=true")
        state = folder / "out/state.pt"
        if state.exists():
            data = state.read_bytes()
            assert (len(data), len(set(data))) == (10_000_000, 1)
        assert set((folder / "metrics.jsonl").read_text().splitlines()) <= {'{"step": 1}'}
    said = running.communicate(timeout=90)[0].decode()
    assert running.returncode == 0, said[-3000:]
    assert sha256(folder / "out/state.pt") == sha256(own.root / "research-log/phase1-test/out/state.pt")


def test_a_backup_keeps_what_another_machine_made(own: Rig) -> None:
    script = "import sys; open('research-log/phase1-test/metrics.jsonl', 'a').write('there\\n')"
    folder = own.lab.add_phase(script=script, artifacts=["metrics.jsonl"])
    (folder / "metrics.jsonl").write_text("made here\n")
    for expected in ("there\n", "there\nthere\n"):
        done = own.run(*FINISHED)
        assert done.exit_code == 0, done
        assert (folder / "metrics.jsonl").read_text() == expected
    kept = [path.read_text() for path in (folder / "runs/replaced").rglob("metrics.jsonl")]
    assert kept == ["made here\n"]
    own.machine.ssh("rm -rf ~/Fractal")  # as a new machine behind the old name
    assert own.run(*FINISHED).exit_code == 0
    kept = sorted(path.read_text() for path in (folder / "runs").rglob("metrics.jsonl"))
    assert kept == ["made here\n", "there\nthere\n"]


def test_a_full_disk_there_costs_neither_the_job_nor_its_exit_code(research_log: Lab, home: Path) -> None:
    with Machine(share=shared_with_machine(), disk_mb=60) as machine:
        rig = Rig(research_log, machine, home)
        rig.lab.add_phase(
            script="print('x' * 100_000_000); print('still here', flush=True); raise SystemExit(4)"
        )
        done = rig.run(*FINISHED, timeout_s=120)
        assert done.exit_code == 4, done
        assert (rig.there("0001-train") / "exit_code").read_text() == "4\n"
        found = rig.run("phase=phase1", "action=doctor", "output=json").documents[0]["diagnoses"]
        assert [d["symptom"] for d in found] == ["disk full"]


def family_of(pid: int) -> list[int]:
    """The process and all below it, the children first."""
    table = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    parents = {int(a): int(b) for a, b in re.findall(r"(\d+)\s+(\d+)", table)}
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found[::-1]

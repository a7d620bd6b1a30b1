"""What the runner adds to ssh and rsync by hand, on a machine of the simulator: time, throughput, memory.

    python -m benchmarks.remote [ROUNDS] [MEGABYTES]

first byte   from consent (a process with confirm=true) to the first byte of the script in the log here,
             beside the same steps typed by hand (rsync, `uv pip list` and the script over ssh, tee),
             both with the same OpenSSH configuration: a plain one, and one that shares connections
following    the log of a finished run and of a live one, beside `ssh cat | tee` of the same file
memory       of the runner while it follows, all its children included
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.remote import Rig, shared_with_machine
from tests.simulator.machine import Machine
from tests.support import Lab

TRAIN = ("phase=phase1", "action=train", "confirm=true")


def main() -> None:
    """Measure on one machine, in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with tempfile.TemporaryDirectory() as place, Machine(share=shared_with_machine()) as machine:
        rig = made_rig(Path(place), machine)
        first_byte(rig, rounds)
        following(rig, megabytes, max(3, rounds // 3))


def made_rig(place: Path, machine: Machine) -> Rig:
    """A log with one phase, and a machine on which nothing is left to set up."""
    lab = Lab(place / "lab", place / "venv")
    (lab.conf / "phase").mkdir(parents=True)
    rig = Rig(lab, machine, place)
    script = "import sys; print('first', flush=True); sys.stdout.write(sys.argv[1])"
    lab.add_phase(script=script, args={"x": 1})
    assert rig.run(*TRAIN).exit_code == 0
    return rig


def first_byte(rig: Rig, rounds: int) -> None:
    """Medians of both, with a plain configuration and with one that shares connections."""
    config = Path(rig.machine.ssh_config)
    plain = config.read_text()
    in_turn(rig, rounds, "a plain configuration")
    socket = rig.home / "shared"
    config.write_text(f"{plain}  ControlMaster auto\n  ControlPath {socket}\n  ControlPersist 10m\n")
    in_turn(rig, rounds, "connections shared by the configuration")
    config.write_text(plain)


def in_turn(rig: Rig, rounds: int, what: str) -> None:
    """The runner, then by hand, and again; no connection is left open from one to the next."""
    ours, by_hand = [], []
    for _ in range(rounds):
        number = len(list(rig.lab.log.glob("phase1-test/runs/0*"))) + 1
        ours.append(until_first_byte(rig, rig.command(*TRAIN), rig.here(f"{number:04d}-train") / "log"))
        hang_up(rig)
        log = rig.home / f"by-hand-{number}"
        by_hand.append(until_first_byte(rig, ["bash", "-c", typed(rig, log)], log))
        hang_up(rig)
    a, b = median(ours), median(by_hand)
    print(
        f"first byte, {what}, median of {rounds}: "
        f"runner {a * 1000:.0f} ms, by hand {b * 1000:.0f} ms, {a / b:.2f} ×"
    )


def hang_up(rig: Rig) -> None:
    """Ends the connection that the configuration keeps open, if it keeps one."""
    words = ["ssh", "-F", str(rig.machine.ssh_config), "-O", "exit", "lambda"]
    subprocess.run(words, capture_output=True, check=False)


def typed(rig: Rig, log: Path) -> str:
    """What a person types, as the seed has it."""
    ssh = f"ssh -F {rig.machine.ssh_config}"
    phase = f"{rig.lab.log}/phase1-test"
    venv = "source ~/Fractal/research-log/phase11-fractal-logic/.venv/bin/activate"
    steps = [
        f"rsync -a -e '{ssh}' {phase}/train.py lambda:Fractal/research-log/phase1-test/",
        f"{ssh} lambda 'PATH=~/.local/bin:$PATH; {venv} && uv pip list >/dev/null 2>&1'",
        f"{ssh} lambda '{venv} && cd ~/Fractal && python -u research-log/phase1-test/train.py --x=1 2>&1 "
        f"| tee ~/by-hand.log' 2>&1 | tee {log}",
    ]
    return " && ".join(steps)


def until_first_byte(rig: Rig, words: list[str], log: Path) -> float:
    """Seconds until there is something in the log here."""
    started = time.perf_counter()
    running = subprocess.Popen(
        words, cwd=rig.lab.root, env=rig.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (log.exists() and log.stat().st_size):
        assert running.poll() in (None, 0)
        time.sleep(0.002)
    taken = time.perf_counter() - started
    running.wait()
    return taken


def following(rig: Rig, megabytes: int, rounds: int) -> None:
    """A log of that size, live and finished, with the memory that following took."""
    lines = megabytes * 10_000
    script = f"import sys\nfor n in range({lines}): sys.stdout.write(f'{{n:08d}} ' + 'x' * 90 + '\\n')"
    rig.lab.add_phase(script=script)
    live, memory = watched(rig, rig.command(*TRAIN))
    ssh = f"ssh -F {rig.machine.ssh_config}"
    job = f'python3 -u -c "{escaped(script)}"'
    by_tee = timed(rig, f"{ssh} lambda '{job} | tee ~/live.log' | tee {rig.home}/live >/dev/null")
    (rig.home / "live").unlink()
    finished(rig, megabytes, rounds)
    print(f"the whole run that prints {megabytes} MB: {live:.1f} s, "
          f"ssh job | tee there | tee here {by_tee:.1f} s, {by_tee / live:.2f} × as fast")  # fmt: skip
    print(f"memory of the runner and its children while following: at most {memory / 1e6:.0f} MB")


def finished(rig: Rig, megabytes: int, rounds: int) -> None:
    """The newest run's log, followed anew as `logs` does it, and copied by hand, in turn."""
    run = max(path.name for path in rig.lab.log.glob("phase1-test/runs/0*"))
    there = f"Fractal/research-log/phase1-test/runs/{run}/log"
    copy = f"ssh -F {rig.machine.ssh_config} lambda 'cat {there}' | tee {rig.home}/plain >/dev/null"
    step = follow_command(rig)
    ours, by_hand = [], []
    for _ in range(rounds):
        for name in ("log", "exit_code"):
            (rig.here(run) / name).unlink()
        ours.append(megabytes / timed(rig, step))
        by_hand.append(megabytes / timed(rig, copy))
        (rig.home / "plain").unlink()
    a, b = median(ours), median(by_hand)
    print(f"following {megabytes} MB of a finished log, median of {rounds}: {a:.0f} MB/s, "
          f"ssh cat | tee {b:.0f} MB/s, {a / b:.2f} ×")  # fmt: skip


def escaped(script: str) -> str:
    """The same script in one line, for the shell by hand."""
    body = script.partition("\n")[2].replace('"', '\\"').replace("'", "'\\''")
    return "import sys\n" + body


def follow_command(rig: Rig) -> str:
    """The text of the step as the plan of `logs` has it."""
    document = rig.run("phase=phase1", "action=logs", "output=json").plan
    return str(next(s["command"] for s in document["steps"] if s["name"] == "follow"))


def timed(rig: Rig, text: str) -> float:
    """Seconds that this line of bash takes."""
    started = time.perf_counter()
    subprocess.run(["bash", "-c", text], check=True, env=rig.env(), stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def watched(rig: Rig, words: list[str]) -> tuple[float, int]:
    """Seconds until it ended, and the most memory (proportional, bytes) that it and its children had."""
    started, most = time.perf_counter(), 0
    running = subprocess.Popen(
        words, cwd=rig.lab.root, env=rig.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while running.poll() is None:
        most = max(most, sum(resident(pid) for pid in below(running.pid)))
        time.sleep(0.3)
    assert running.returncode == 0
    return time.perf_counter() - started, most


def below(pid: int) -> list[int]:
    """The process and all that it started."""
    found = [pid]
    for member in found:
        try:
            found += map(int, Path(f"/proc/{member}/task/{member}/children").read_text().split())
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    """Its share of memory."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    os.umask(0o022)
    main()

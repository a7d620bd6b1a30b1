"""A whole life of a rented machine, rehearsed on this computer without paying: `make rehearse`.

    python -m tests.rehearsal [STEPS]

A simulated cloud whose machines are real (an sshd with another home) comes up; phase 12 is
trained on one of them over ssh; its link is cut and reset meanwhile; the log, the exit code and the
artifacts come home; the machine is terminated. Every command is one that a person would type.
"""

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from getpass import getuser
from hashlib import sha256
from pathlib import Path

from uv import find_uv_bin

from tests.simulator.server import Simulator
from tests.support import CHECKOUT, PYTHON, runner_env

PHASE = "phase12-fractal-sampler"
VENV = CHECKOUT / "research-log/phase11-fractal-logic/.venv"
# Everything of the phase but vLLM, which training does not need.
DEPS = "phase.deps=[torch>=2.9,transformers>=5.16,datasets>=3.0,tqdm>=4.66]"
SCALE = 0.01
STEPS = 30


class Rehearsal:
    """A throw-away home and research log, beside a simulated cloud."""

    def __init__(self, folder: Path, cloud: Simulator, steps: int) -> None:
        self.folder = folder
        self.cloud = cloud
        self.home = folder / "home"
        (self.home / ".ssh").mkdir(parents=True)
        key = self.home / ".ssh/id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        source = CHECKOUT / "research-log" / PHASE
        shutil.copytree(source, self.phase, ignore=shutil.ignore_patterns("runs", "checkpoints*", "*.jsonl"))
        small = {"steps": steps, "+num_train": 2000, "+num_test": 40, "+eval_every": 15, "+save_every": 15}
        self.train = [
            f"{'+' * k.startswith('+')}phase.jobs.train.args.{k.lstrip('+')}={v}" for k, v in small.items()
        ]

    @property
    def phase(self) -> Path:
        """The folder of the phase here."""
        return self.folder / "research-log" / PHASE

    @property
    def words(self) -> list[str]:
        """What makes the runner use this place and this cloud; a person has them in conf/."""
        return [
            f"paths.research_log={self.folder / 'research-log'}",
            f"paths.state={self.folder / 'state'}",
            f"cloud.base_url={self.cloud.base_url}",
            f"cloud.time_scale={SCALE}",
            f"ssh.port={self.cloud.ssh_port}",
            f"ssh.user={getuser()}",
            f"remote.venv={VENV}",
            f"remote.uv_install=mkdir -p ~/.local/bin && ln -sf {shlex.quote(find_uv_bin())} ~/.local/bin/uv",
            f"instance.python={VENV}/bin/python",
        ]

    def start(self, *typed: str, shown: bool = True) -> subprocess.Popen[str]:
        """The command line as a person types it; what it prints is shown."""
        if shown:
            print(f"\n$ python -m runner {shlex.join(typed)}", flush=True)
        return subprocess.Popen(
            [PYTHON, "-m", "runner", *self.words, *typed],
            cwd=self.folder,
            env=runner_env(self.home, {"LAMBDA_API_KEY": self.cloud.api_key}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if shown else subprocess.DEVNULL,
            text=True,
        )

    def run(self, *typed: str) -> str:
        """To its end, which has to be a good one."""
        return ended(self.start(*typed))

    def digest(self, *typed: str) -> str:
        """Of the plan that is shown now."""
        shown = self.start(*typed, "output=json", shown=False)
        return str(json.loads(shown.communicate()[0].splitlines()[0])["digest"])


def ended(running: subprocess.Popen[str]) -> str:
    """Show what it says; SystemExit when it fails."""
    assert running.stdout
    said = []
    for line in running.stdout:
        said.append(line)
        is_code = "ssh -" in line or line.startswith(("  ", "}", "$ launch   else"))
        if line.strip() and not is_code:
            print(f"    {line.rstrip()[:110]}", flush=True)
    if running.wait():
        print("".join(said)[-4000:])
        raise SystemExit(f"rehearsal: exit code {running.returncode}")
    return "".join(said)


def disturb(rehearsal: Rehearsal, running: subprocess.Popen[str]) -> None:
    """Once the job speaks: cut its link for two seconds, mend it, and reset what is left of it."""
    log = rehearsal.phase / "runs/0001-train/log"
    while running.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    machine = rehearsal.cloud.machine(rehearsal.cloud.alive()[0].name)
    for act, seconds in ((machine.cut, 2.0), (machine.heal, 0.5), (machine.reset, 0.5)):
        print(f"    --- the link: {act.__name__}", flush=True)
        act()
        time.sleep(seconds)


def rehearse(rehearsal: Rehearsal) -> None:
    """From nothing to nothing."""
    gpu = "instance=gpu_1x_a10"
    train = (f"phase={PHASE.partition('-')[0]}", "action=train", gpu, DEPS, *rehearsal.train)
    up = ("action=up", gpu)
    rehearsal.run(*up, f"confirm={rehearsal.digest(*up)}")
    running = rehearsal.start(*train, f"confirm={rehearsal.digest(*train)}")
    disturb(rehearsal, running)
    ended(running)
    rehearsal.run("action=status")
    backup = (train[0], "action=backup", gpu)
    rehearsal.run(*backup, f"confirm={rehearsal.digest(*backup)}")
    there = rehearsal.cloud.machine(rehearsal.cloud.alive()[0].name).home / "Fractal/research-log" / PHASE
    check(rehearsal.phase, there)
    end = ("action=terminate", gpu)
    rehearsal.run(*end, f"confirm={rehearsal.digest(*end)}")
    assert rehearsal.cloud.alive() == [], "a machine is still paid for"


def check(here: Path, there: Path) -> None:
    """The log and the artifacts are the same at both ends."""
    names = ["runs/0001-train/log", "metrics.jsonl"]
    names += [str(p.relative_to(there)) for p in there.glob("checkpoints/**/*") if p.is_file()]
    assert len(names) > 2, "no checkpoint was made"
    for name in names:
        ours, theirs = (sha256((place / name).read_bytes()).hexdigest() for place in (here, there))
        assert ours == theirs, f"{name} differs"
    print(f"    --- {len(names)} files are the same at both ends: {', '.join(names[:2])}, checkpoints …")


def main() -> None:
    """Set up what is missing, rehearse, tidy up."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    setup = ["phase=phase12", "action=setup", "instance=local", DEPS, "confirm=true"]
    subprocess.run([PYTHON, "-m", "runner", *setup], cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as place:
        cloud = Simulator(scale=SCALE, machines="plain")  # they see this computer's environment
        try:
            rehearse(Rehearsal(Path(place), cloud, steps))
        finally:
            cloud.close()
    print("\nRehearsed: rented, trained, cut off, followed, brought home, terminated.")


if __name__ == "__main__":
    main()

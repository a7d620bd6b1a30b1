"""How long showing a plan takes, beside a bare @hydra.main program with the same configuration files.

    python -m benchmarks.plan [ROUNDS]

Whole processes, one after the other in turn, so that a busy moment of the machine touches all of them.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from compileall import compile_dir
from pathlib import Path
from statistics import median
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
ROUNDS = 15

# The least that a Hydra program can do with our configuration: compose it and print it.
BARE = f"""
import hydra
import runner.config
@hydra.main(config_path={str(CHECKOUT / "conf")!r}, config_name="config", version_base="1.3")
def main(config):
    print(config.action)
main()
"""

WORDS = ("phase=phase11", "action=train")
RENTED = ("phase=phase12", "action=train")
RUNNER = ("-m", "runner")
# name → the words behind `python`, and what its time is divided by
SUBJECTS = {
    "python -c pass": (("-c", "pass"), None),
    "bare hydra program": (("bare.py", *WORDS), None),
    "the same, phase12": (("bare.py", *RENTED), None),
    "bare program --help": (("bare.py", "--help"), None),
    "runner: a plan": ((*RUNNER, *WORDS), "bare hydra program"),
    "runner: a plan, JSON": ((*RUNNER, *WORDS, "output=json"), "bare hydra program"),
    "runner: phase12, to be rented": ((*RUNNER, *RENTED), "the same, phase12"),
    "runner: discover": (RUNNER, "bare hydra program"),
    "runner --help": ((*RUNNER, "--help"), "bare program --help"),
}


class Spent(NamedTuple):
    """One process: from its start to its end, and computing."""

    ms: float
    cpu_ms: float


def main() -> None:
    """Measure all subjects and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    compile_dir(CHECKOUT / "runner", quiet=1)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "bare.py").write_text(BARE)
        taken = measure(Path(place), rounds)
    report(taken, rounds)


def report(taken: dict[str, list[Spent]], rounds: int) -> None:
    """The table. What a process computed depends less on other work than how long it took."""
    middle = {name: Spent(*map(median, zip(*spent, strict=True))) for name, spent in taken.items()}
    print(f"{'whole process, median of ' + str(rounds):<30} {'ms':>6} {'CPU ms':>6}   ratios")
    for name, (_, baseline) in SUBJECTS.items():
        own, other = middle[name], middle[baseline or name]
        ratios = f"{own.ms / other.ms:.2f}, {own.cpu_ms / other.cpu_ms:.2f} × {baseline}" if baseline else ""
        print(f"{name:<30} {own.ms:6.0f} {own.cpu_ms:6.0f}   {ratios}".rstrip())


def measure(place: Path, rounds: int) -> dict[str, list[Spent]]:
    """What each process took; one round before the count warms the caches."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    taken: dict[str, list[Spent]] = {name: [] for name in SUBJECTS}
    for number in range(rounds + 1):
        for name, (words, _) in SUBJECTS.items():
            started, computed = time.perf_counter(), cpu_s()
            subprocess.run(
                [sys.executable, *words], cwd=place, env=env, stdout=subprocess.DEVNULL, check=True
            )
            if number:
                seconds = (time.perf_counter() - started, cpu_s() - computed)
                taken[name].append(Spent(*(1000 * s for s in seconds)))
    return taken


def cpu_s() -> float:
    """Seconds that all processes of ours that ended have computed, in Python and in the kernel."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

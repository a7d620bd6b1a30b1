"""How long showing a plan takes, beside a bare @hydra.main program with the same configuration files.

    python -m benchmarks.plan [ROUNDS]

Whole processes, one after the other in turn, so that a busy moment of the machine touches all of them.
"""

import os
import subprocess
import sys
import tempfile
import time
from compileall import compile_dir
from pathlib import Path
from statistics import median

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
RUNNER = ("-m", "runner")
# name → the words behind `python`, and what its time is divided by
SUBJECTS = {
    "python -c pass": (("-c", "pass"), None),
    "bare hydra program": (("bare.py", *WORDS), None),
    "bare program --help": (("bare.py", "--help"), None),
    "runner: a plan": ((*RUNNER, *WORDS), "bare hydra program"),
    "runner: a plan, JSON": ((*RUNNER, *WORDS, "output=json"), "bare hydra program"),
    "runner: discover": (RUNNER, "bare hydra program"),
    "runner --help": ((*RUNNER, "--help"), "bare program --help"),
}


def main() -> None:
    """Measure all subjects and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    compile_dir(CHECKOUT / "runner", quiet=1)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "bare.py").write_text(BARE)
        taken = measure(Path(place), rounds)
    middle = {name: median(times) for name, times in taken.items()}
    print(f"{'whole process, median of ' + str(rounds):<30} {'ms':>6}   ratio")
    for name, (_, baseline) in SUBJECTS.items():
        ratio = f"{middle[name] / middle[baseline]:.2f} × {baseline}" if baseline else ""
        print(f"{name:<30} {middle[name]:6.0f}   {ratio}".rstrip())


def measure(place: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each process; one round before the count warms the caches."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    taken: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    for number in range(rounds + 1):
        for name, (words, _) in SUBJECTS.items():
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, *words], cwd=place, env=env, stdout=subprocess.DEVNULL, check=True
            )
            if number:
                taken[name].append(1000 * (time.perf_counter() - started))
    return taken


if __name__ == "__main__":
    main()

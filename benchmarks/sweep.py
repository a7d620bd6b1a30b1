"""What a sweep costs to plan, beside Hydra's own multirun, and what folding saves, with vLLM for real.

    python -m benchmarks.sweep plan      10 to 10,000 members: ms a member above the fixed cost, memory
    python -m benchmarks.sweep fold      16 configs in one process beside 16 processes of one config

`fold` needs a checkpoint of phase12 and its environment:
    python -m runner phase=phase12 action=train instance=local confirm=true
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PHASE = CHECKOUT / "research-log" / "phase12-fractal-sampler"
VENV = CHECKOUT / "research-log" / "phase11-fractal-logic" / ".venv"

# The least that a Hydra program can do for each member of a multirun: nothing.
NOTHING = f"""
import hydra
import runner.config
@hydra.main(config_path={str(CHECKOUT / "conf")!r}, config_name="config", version_base="1.3")
def main(config):
    pass
main()
"""
QUIET = ("hydra.hydra_logging.root.level=ERROR", "hydra/job_logging=disabled", "hydra.output_subdir=null")
SIZES = (1, 10, 100, 1_000, 10_000)
HYDRAS = (1, 10, 100, 1_000)  # 10,000 would take Hydra half an hour

WORDS = ("phase=phase12", "action=generate", "instance=local")
TEMPERATURES, TOP_PS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6), (0.9, 1.0)
SMALL = ("generation.n=4", "phase.jobs.generate.args.num_problems=20")


def main() -> None:
    """Run the parts that are named, both by default."""
    parts = sys.argv[1:] or ["plan", "fold"]
    with tempfile.TemporaryDirectory() as place:
        if "plan" in parts:
            planning(Path(place))
        if "fold" in parts:
            folding(Path(place))


# ---------------------------------------------------------------------------------- planning


def planning(place: Path) -> None:
    """Whole processes; the fixed cost is that of a sweep of one."""
    (place / "nothing.py").write_text(NOTHING)
    ours = {
        size: measured([*("-m", "runner", "-m"), *WORDS, swept(size), "output=json"], place) for size in SIZES
    }
    hydras = {size: measured(hydra_words(place, size), place) for size in HYDRAS}
    print(
        f"{'members':>8} {'planned, s':>11} {'ms a member':>12} {'MB':>6}   {'Hydra, s':>8} {'ms each':>12}"
    )
    for size in SIZES:
        peer = ""
        if size in hydras:
            peer = f"{hydras[size][0]:8.2f} {each(hydras, size)}"
        print(f"{size:8,} {ours[size][0]:11.2f} {each(ours, size)} {ours[size][1]:6.0f}   {peer}".rstrip())


def hydra_words(place: Path, size: int) -> list[str]:
    """Hydra's own multirun, with everything that it writes and prints turned off."""
    return ["nothing.py", "-m", *WORDS, *QUIET, f"hydra.sweep.dir={place}/hydra-{size}", swept(size)]


def swept(size: int) -> str:
    """An axis of this many values."""
    return f"generation.seed=range({size})"


def each(taken: dict[int, tuple[float, float]], size: int) -> str:
    """Milliseconds a member above the fixed cost."""
    if size == 1:
        return f"{'':12}"
    return f"{1000 * (taken[size][0] - taken[1][0]) / (size - 1):12.2f}"


def measured(words: Sequence[str], place: Path) -> tuple[float, float]:
    """Seconds and the most memory, in MB, of one process."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=place, env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(words)}")
    return time.perf_counter() - started, used.ru_maxrss / 1024


# ---------------------------------------------------------------------------------- folding


def folding(place: Path) -> None:
    """The same 16 configs through the runner, once folded and once each in a process of its own."""
    log = place / "research-log"
    shutil.copytree(PHASE, log / PHASE.name, ignore=shutil.ignore_patterns("runs", "samples", "run.log"))
    common = (*WORDS, *SMALL, f"paths.research_log={log}", f"paths.venv={VENV}", "confirm=true")
    one = timed([
        "-m", *common, f"generation.temperature={','.join(map(str, TEMPERATURES))}",
        f"generation.top_p={','.join(map(str, TOP_PS))}",
    ], place)  # fmt: skip
    print(f"folded: 16 configs in one process {one:8.1f} s", flush=True)
    alone = 0.0
    for number, (temperature, top_p) in enumerate(product(TEMPERATURES, TOP_PS), start=1):
        words = (f"generation.temperature={temperature}", f"generation.top_p={top_p}")
        alone += timed([*common, *words, f"+phase.jobs.generate.args.out={place}/alone-{number}"], place)
        print(f"one process each: {number:2} of 16, {alone:8.1f} s so far", flush=True)
    print(f"folding is {alone / one:.1f} times faster")


def timed(words: Sequence[str], place: Path) -> float:
    """Seconds of one run of the runner."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "runner", *words], cwd=place, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

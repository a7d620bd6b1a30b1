"""Seconds of each layer of a preflight, cold and warm, beside plain pip installing the same set, in one run.

    python -m benchmarks.preflight [PHASE [ROUNDS]]

Cold: an empty cache, everything downloaded, once each. Warm: the caches filled by the cold ones, ROUNDS
times in turn, medians. pip gets the same requirements and the same Python, in a new environment each
time; it neither resolves for the machine nor imports anything.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from runner.config.compose import conf_folders
from runner.config.freeze import load
from runner.config.schema import find_links
from runner.environment.passes import preflight_input
from runner.environment.preflight_steps import PreflightSteps
from runner.environment.requirements import cpu_builds

CHECKOUT = Path(__file__).resolve().parent.parent
LAYERS = ("resolve", "install", "import")
Times = dict[str, float]


def main() -> None:
    """Measure and print a table."""
    phase = sys.argv[1] if len(sys.argv) > 1 else "phase11"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    asked = cpu_requirements(phase)
    place = Path(tempfile.mkdtemp(prefix="bench-preflight-", dir=cache_folder()))
    try:
        cold = {**preflight(place, phase), **pip(place, asked)}
        warm: list[Times] = [
            {**preflight(place, phase), **again(place, phase), **pip(place, asked)} for _ in range(rounds)
        ]
        report(phase, asked, cold, warm)
    finally:
        shutil.rmtree(place)


def cpu_requirements(phase: str) -> tuple[str, ...]:
    """What the install layer installs here, by the names in the YAML."""
    settings = load([f"phase={phase}", "action=preflight"], CHECKOUT)
    assert settings.phase, phase
    return PreflightSteps(settings, settings.phase, preflight_input(settings, settings.phase)).cpu_packages()


def cache_folder() -> Path:
    """Beside uv's cache, where links can be made as in daily work."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def preflight(place: Path, phase: str) -> Times:
    """The layers' seconds with nothing remembered; SystemExit with its words when it fails."""
    shutil.rmtree(place / "state", ignore_errors=True)
    done, seconds = run(place, phase, "confirm=true")
    result = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        raise SystemExit(done.stderr)
    steps = {step["name"]: step["seconds"] for step in result["steps"]}
    return {**{name: steps[name] for name in LAYERS}, "preflight": seconds}


def again(place: Path, phase: str) -> Times:
    """A preflight of what has passed."""
    return {"preflight, passed before": run(place, phase)[1]}


def run(place: Path, phase: str, *words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The runner as a whole process, with a cache and a state of its own."""
    own = {"UV_CACHE_DIR": str(place / "uv")}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own
    command = (f"phase={phase}", "action=preflight", "output=json", f"paths.state={place / 'state'}", *words)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "runner", *command], cwd=CHECKOUT, env=env, capture_output=True, text=True
    )
    return done, time.perf_counter() - started


def pip(place: Path, asked: tuple[str, ...]) -> Times:
    """A new environment and `pip install` in it."""
    venv, links = place / "venv", cpu_builds(conf_folders(None)).find_links or find_links()
    shutil.rmtree(venv, ignore_errors=True)
    where = ("--find-links", links) if links else ()
    options = ("-qq", "--disable-pip-version-check", "--cache-dir", str(place / "pip"), *where)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin/python"), "-m", "pip", "install", *options, *asked], check=True)
    return {"pip install": time.perf_counter() - started}


def report(phase: str, asked: tuple[str, ...], cold: Times, warm: list[Times]) -> None:
    """The table."""
    middle = {name: median(times[name] for times in warm) for name in warm[0]}
    print(f"{phase}: {', '.join(asked)}\n")
    print(f"{'seconds':<26} {'cold':>7} {'warm':>7}")
    for name in (*LAYERS, "preflight", "preflight, passed before", "pip install"):
        first = f"{cold[name]:7.1f}" if name in cold else f"{'':7}"
        print(f"{name:<26} {first} {middle[name]:7.2f}")
    for label, times in (("cold", cold), ("warm", middle)):
        print(f"install / pip install, {label}: {times['install'] / times['pip install']:.2f}")


if __name__ == "__main__":
    main()

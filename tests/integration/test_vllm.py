"""vLLM itself: a sweep in one process gives what each config gives alone, text by text."""

import json
import os
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support import CHECKOUT, PYTHON, runner_env, soak_size

PHASE = "phase12-fractal-sampler"
TEMPERATURES, NS = (0, 0.7, 1.0), (1, 4)
SMALL = ("phase.jobs.generate.args.num_problems=12", "phase.jobs.generate.args.backend=vllm", "batch_size=8")
TRAINING = ("steps=30", "num_train=2000", "num_test=20", "eval_every=30", "save_every=30", "batch_size=32")


def run(root: Path, *words: str) -> str:
    """The runner in the root, with the checkout's shared environment; what it printed."""
    command = [PYTHON, "-m", "runner", "phase=phase12", "instance=local", "confirm=true", *words]
    places = [f"paths.research_log={root}/research-log", f"paths.state={root}/.runner"]
    venv = f"paths.venv={CHECKOUT}/research-log/phase11-fractal-logic/.venv"
    done = subprocess.run(
        [*command, *places, venv],
        cwd=root, env=runner_env(Path.home(), {"PIP_FIND_LINKS": os.environ.get("PIP_FIND_LINKS")}),
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The phase in a research log of its own, with a checkpoint that was trained for a few seconds."""
    root = tmp_path_factory.mktemp("vllm")
    phase = root / "research-log" / PHASE
    phase.mkdir(parents=True)
    for script in (CHECKOUT / "research-log" / PHASE).glob("*.py"):
        (phase / script.name).write_text(script.read_text())
    args = [f"++phase.jobs.train.args.{word}" for word in TRAINING if not word.startswith("batch_size")]
    run(root, "action=train", *args, "batch_size=32")
    yield root


def samples(path: Path) -> list[list[list[str]]]:
    """The texts of every node of every problem."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [[node["samples"] for node in line["nodes"]] for line in lines if "nodes" in line]


@pytest.mark.soak
def test_members_of_a_sweep_give_what_they_give_alone(root: Path) -> None:
    """Six configs in one process; greedy and sampled ones again, each in a process of its own."""
    axes = (
        f"generation.temperature={','.join(map(str, TEMPERATURES))}",
        f"generation.n={','.join(map(str, NS))}",
    )
    told = run(root, "-m", "action=generate", *axes, *SMALL)
    phase = root / "research-log" / PHASE
    folder = phase / "samples" / "0002-generate"
    members: list[dict[str, Any]] = [json.loads((folder / f"{k}.json").read_text()) for k in range(6)]
    assert "6 of 6 finished" in told
    assert len({member["load_seconds"] for member in members}) == 1, "loaded once"
    assert all(member["options"]["backend"] == "vllm" for member in members)
    configs = list(enumerate(product(TEMPERATURES, NS)))
    for number, (temperature, n) in soak_size(configs, [configs[1], configs[3]]):  # type: ignore[arg-type,misc]
        own = (f"generation.temperature={temperature}", f"generation.n={n}")
        run(root, "action=generate", *own, *SMALL, f"+phase.jobs.generate.args.out={root}/alone-{number}")
        alone = samples(root / f"alone-{number}" / "0.jsonl")
        assert len(alone) == 12
        assert samples(folder / f"{number}.jsonl") == alone, f"member {number}: T={temperature}, n={n}"

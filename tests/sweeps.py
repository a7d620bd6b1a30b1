"""What the tests of sweeps share: a sampling script that loads once, and a finished sweep on disk."""

import json
from itertools import product
from pathlib import Path
from typing import Any

from tests.support import Lab

# Loads, then works through the configs as the folding convention says: a line appended at a time,
# a whole result at the end, a failing member alone, nothing finished done again.
SAMPLER = r"""
import argparse, json, os, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("--model", default="m")
parser.add_argument("--configs", type=Path)
parser.add_argument("--out", type=Path)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
with open(args.out / "loads", "a") as file:
    file.write(args.model + "\n")
time.sleep(float(os.environ.get("LOAD_S", "0")))
first = 0
for line in args.configs.read_text().splitlines():
    config = json.loads(line)
    name, values = config["member"], config["values"]
    result, error = args.out / f"{name}.json", args.out / f"{name}.error.json"
    if result.exists():
        continue
    try:
        if values.get("fail"):
            raise RuntimeError(values["fail"])
        with open(args.out / f"{name}.jsonl", "w") as file:
            for step in range(int(values.get("steps", 3))):
                file.write(json.dumps({"step": step, "values": values}) + "\n")
                file.flush()
                time.sleep(float(os.environ.get("STEP_S", "0")))
        told = {"member": name, "values": values, "load_seconds": 1.5, "generation_seconds": 0.5}
        new = args.out / f"{name}.json.tmp"
        new.write_text(json.dumps(told | {"pass_at_1": 0.5, "model": args.model}))
        os.replace(new, result)
        error.unlink(missing_ok=True)
        print("member", name, "done", flush=True)
    except RuntimeError as wrong:
        oom = "out of memory" in str(wrong)
        error.write_text(json.dumps({"error": str(wrong), "out_of_memory": oom, "exit_code": 3}))
        first = first or 3
sys.exit(first)
"""


def add_sampler(lab: Lab, script: str = SAMPLER, fold: Any = ("model",), **args: Any) -> Path:
    """A phase `phase2` whose job `generate` folds; gives its folder."""
    given = {
        "model": "m",
        "temperature": 0.5,
        "steps": 3,
        "fail": None,
        "batch_size": "${batch_size}",
        **args,
    }
    job = {"entrypoint": "generate.py", "args": given}
    if fold is not None:
        job["fold"] = {"load_key": list(fold)}
    return lab.add_phase(
        "phase2-sampler", script, entrypoint="generate.py", jobs={"generate": job}, batch_size=8
    )


ARGS = "phase.jobs.generate.args"


def finished_sweep(lab: Lab, levels: dict[str, list[Any]], failed: tuple[int, ...] = ()) -> Path:
    """A sweep as its run and its members leave it, with made-up figures; gives the run's folder."""
    phase = add_sampler(lab)
    run = phase / "runs" / "0001-generate"
    samples = phase / "samples" / "0001-generate"
    run.mkdir(parents=True)
    samples.mkdir(parents=True)
    lines = []
    for number, combination in enumerate(product(*levels.values())):
        values = dict(zip(levels, combination, strict=True))
        overrides = [f"generation.{key}={value}" for key, value in values.items()]
        line = {"member": number, "process": 0, "overrides": overrides, "load": {"model": "m"}}
        lines.append(json.dumps(line | {"values": {**values, "seed": 0}}))
        if number in failed:
            told = {"error": "CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory": True}
            (samples / f"{number}.error.json").write_text(json.dumps(told))
            continue
        vote = 0.7 + 0.25 * ((number * 7) % 11) / 11
        figures = {"pass_at_1": vote - 0.1, "majority_vote": vote, "pass_at_n": vote + 0.04, "num_nodes": 200}
        figures |= {"num_samples": 1600, "samples_per_second": 90 + 13 * (number % 5)}
        figures |= {"generation_seconds": 4 + number % 3, "load_seconds": 18.3}
        (samples / f"{number}.json").write_text(json.dumps({"member": number, **figures}))
        (samples / f"{number}.jsonl").write_text("{}\n")
    (run / "configs.jsonl").write_text("\n".join(lines) + "\n")
    (run / "log").write_text("loaded\n")
    instance = {"name": "lambda", "type": "gpu_1x_a100_sxm4", "usd_per_hour": 1.99}
    (run / "plan.json").write_text(json.dumps({"digest": "p000000000000", "instance": instance}))
    (run / "result.json").write_text(json.dumps({"steps": [{"name": "start", "seconds": 300.0}]}))
    return run

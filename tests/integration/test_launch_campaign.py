"""Launches under a storm, over real HTTP, the runner killed at random: nothing rented twice, nothing lost.

`make soak` makes 1,000 launches; `make test` makes 100.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulator.process import SimulatorProcess
from tests.support import CHECKOUT, runner_env, soak_size

SCALE = 0.005  # of all waiting, here and in the cloud
STORM = (
    "lose-answer,match=launch,probability=0.12",
    "lose-answer,text=reset,match=launch,probability=0.05",
    "cut-answer,match=launch,probability=0.05",
    "error-after,match=launch,probability=0.08",
    "garbage,match=launch,probability=0.05",
    "lose-request,probability=0.05",
    "rate-limit,text=any,probability=0.06,value=3",
    "server-error,probability=0.06",
    "server-error,text=json,probability=0.03",
    "no-capacity,probability=0.2",
    "slow-list,probability=0.2,value=10",
    "slow-list,probability=0.1,value=60",
    "slow,probability=0.1,value=2",
)


class Fleet:
    """A simulated cloud, a warm runner, and a home of their own."""

    def __init__(self, folder: Path, cloud: SimulatorProcess) -> None:
        self.folder = folder
        self.cloud = cloud
        self.lasted_s = [0.8]  # how long launches took here; kills fall anywhere into them
        home = folder / "home"
        (home / ".ssh").mkdir(parents=True)
        key = home / ".ssh/id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        env = runner_env(home, {"LAMBDA_API_KEY": cloud.api_key})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.zygote"],
            cwd=CHECKOUT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *jobs: tuple[list[str], float | None]) -> list[tuple[int, str]]:
        """Run command lines side by side; (exit code, all output) of each."""
        context = [f"cloud.base_url={self.cloud.base_url}", f"cloud.time_scale={SCALE}"]
        context += [f"paths.state={self.folder}/state", "instance=gpu_1x_a10"]
        outs = [self.folder / f"out-{number}" for number in range(len(jobs))]
        asked = [
            {"args": [*args, *context], "out": str(out), "kill_after": kill_after}
            for (args, kill_after), out in zip(jobs, outs, strict=True)
        ]
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return [(code, out.read_text(errors="replace")) for code, out in zip(codes, outs, strict=True)]

    def launch(self, alias: str) -> list[str]:
        """The words that rent a machine, with the digest of the plan that there is now."""
        words = ["action=launch", f"machine={alias}", "instance.regions=[us-west-1,us-east-1]"]
        return [*words, f"confirm={self.document(*words)['digest']}"]

    def status(self) -> dict[str, Any]:
        """The next contact."""
        return self.document("action=status")

    def document(self, *words: str) -> dict[str, Any]:
        """What is shown: asked again while the storm keeps us from an answer."""
        for _ in range(20):
            ((code, text),) = self.run(([*words, "output=json"], None))
            if code == 0:
                line = next(line for line in text.splitlines() if line.startswith('{"format"'))
                document: dict[str, Any] = json.loads(line)
                return document
            assert code in (69, 75), text
        raise AssertionError(text)

    def rented(self, alias: str) -> list[dict[str, Any]]:
        """The truth: what is alive under this alias."""
        instances = self.cloud.control("instances")
        return [i for i in instances if i["rented"] and i["name"].startswith(f"{alias}-")]

    def end_by_hand(self, instance_id: str) -> None:
        """As in the cloud's console."""
        for _ in range(50):
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.post(
                    f"{self.cloud.base_url}/instance-operations/terminate",
                    json={"instance_ids": [instance_id]},
                    headers={"Authorization": f"Bearer {self.cloud.api_key}", "User-Agent": "console"},
                )
                if answer.status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError("the console cannot end it either")

    def close(self) -> None:
        """End the warm runner."""
        self.process.communicate()


@pytest.mark.soak
def test_no_storm_and_no_kill_rents_twice_or_loses_a_machine(tmp_path: Path) -> None:
    num_launches = soak_size(1000, 100)
    seed = int(os.environ.get("CAMPAIGN_SEED", "20261124"))
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    settings = ["--set", "rate_limit_shape=any"]
    with SimulatorProcess(
        "--machines", "none", "--scale", str(SCALE), "--seed", str(seed), "--faults", *STORM, *settings
    ) as cloud:
        fleet = Fleet(tmp_path, cloud)
        try:
            for number in range(num_launches):
                one_launch(fleet, f"r{number}", chance, counts)
            asked_to_end = counts["ended by hand"]
            journal = cloud.control("journal?method=POST&path=terminate")
            ended = {i for entry in journal for i in entry["terminated"]}
            by_runner = [e for e in journal if e["user_agent"] != "console"]
        finally:
            fleet.close()
    counts["terminated unasked"] = len(by_runner)
    print(f"\n{num_launches} launches, seed {seed}: {dict(sorted(counts.items()))}")
    assert not by_runner, "no verb but terminate ends a machine"
    assert len(ended) == asked_to_end
    assert counts["rented"] > num_launches // 3, "the storm left something to lose"
    assert counts["killed"] > num_launches // 5


def one_launch(fleet: Fleet, alias: str, chance: random.Random, counts: Counter[str]) -> None:
    """Launch, perhaps killed, perhaps two at once; then look, and launch again."""
    launch = fleet.launch(alias)
    # most launches are over soon, and a few look for long for what a lost answer left: both are killed
    lately = fleet.lasted_s[-20:]
    length_s = chance.choice((statistics.median(lately), statistics.mean(lately)))
    kill_after = chance.random() * length_s if chance.random() < 0.75 else None
    jobs = [(launch, kill_after)]
    if chance.random() < 0.1:
        jobs.append((launch, None))
        counts["two at once"] += 1
    started = time.monotonic()
    done = fleet.run(*jobs)
    if kill_after is None:
        fleet.lasted_s.append(time.monotonic() - started)
    for code, text in done:
        counts["killed" if code == -9 else f"exit {code}"] += 1
        assert code in (0, 69, 75, 77, -9), text
    check_known(fleet, alias, counts)
    fleet.run((fleet.launch(alias), None))  # once more, as a person would after a crash
    rented = fleet.rented(alias)
    assert len(rented) <= 1, f"rented twice: {rented}"
    for instance in rented:
        counts["rented"] += 1
        fleet.end_by_hand(instance["id"])
        counts["ended by hand"] += 1


def check_known(fleet: Fleet, alias: str, counts: Counter[str]) -> None:
    """At most one is alive, and the next contact knows it as ours (or, not listed yet, as doubtful)."""
    rented = fleet.rented(alias)
    assert len(rented) <= 1, f"rented twice: {rented}"
    document = fleet.status()
    ours = {i["id"] for i in document["instances"] if i["ours"]}
    unsure = set(document["uncertain"])
    for instance in rented:
        counts["seen"] += 1
        assert instance["id"] in ours or instance["name"] in unsure, (instance, document)

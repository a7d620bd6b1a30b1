"""The life of a rented machine, end to end: simulated cloud, real sshd, real ssh, a throw-away home."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner.machines.lambda_api import GONE
from runner.plan.plan import Effect
from runner.verbs import VERBS
from tests.simulator.faults import Fault
from tests.simulator.server import Simulator
from tests.support import Done, Lab, consented, run_runner, runner_env

SCALE = 0.01
CANARY = "secret_canary_0123456789abcdef0123456789abcdef.CANARYcanaryCANARYcanaryCANARY12"


@dataclass
class Renting:
    """A simulated cloud, a home, and the runner told about both."""

    cloud: Simulator
    home: Path
    folder: Path

    def __call__(self, *args: str, env: dict[str, str | None] | None = None) -> Done:
        """The runner; arguments of the test come last, so that they count."""
        return run_runner(*self.context, *args, cwd=self.folder, env=self.env(env))

    def env(self, more: dict[str, str | None] | None = None) -> dict[str, str]:
        """The environment of everything here."""
        return runner_env(self.home, {"LAMBDA_API_KEY": self.cloud.api_key} | (more or {}))

    @property
    def context(self) -> list[str]:
        """Where the cloud, the state and the machines are."""
        return [
            f"cloud.base_url={self.cloud.base_url}",
            f"cloud.time_scale={SCALE}",
            f"paths.state={self.folder}/state",
            f"paths.research_log={self.folder}/research-log",
            f"ssh.port={self.cloud.ssh_port}",
        ]

    def json(self, *args: str) -> dict[str, Any]:
        """The last document that the runner prints."""
        done = self(*args, "output=json")
        assert done.exit_code == 0, done
        document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return document

    def ssh(self, command: str, alias: str = "lambda") -> str:
        """As a person in any terminal would."""
        words = ["ssh", "-F", str(self.home / ".ssh/config"), alias, command]
        done = subprocess.run(words, env=self.env(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def up(self, *args: str) -> Done:
        """A machine that answers."""
        done = consented(self, "action=up", "instance=gpu_1x_a10", *args)
        assert done.exit_code == 0, done
        return done

    def terminate(self, *args: str) -> Done:
        """Show the plan, then confirm it by its digest."""
        digest = self.json("action=terminate", *args)["digest"]
        return self("action=terminate", *args, f"confirm={digest}")


@pytest.fixture
def rent(tmp_path: Path, home: Path) -> Iterator[Callable[..., Renting]]:
    """`rent(machines="none", faults=[…], …)`: a fresh cloud; machines are real unless told otherwise."""
    clouds: list[Simulator] = []

    def start(machines: str = "auto", key: str = CANARY, **settings: Any) -> Renting:
        cloud = Simulator(**{"scale": SCALE, "machines": machines, "api_key": key, **settings})
        clouds.append(cloud)
        identity = home / ".ssh/id_ed25519"
        if not identity.exists():
            identity.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(identity)], check=True)
        (tmp_path / "research-log").mkdir(exist_ok=True)
        return Renting(cloud, home, tmp_path)

    yield start
    for cloud in clouds:
        cloud.close()


@pytest.fixture
def paper(rent: Callable[..., Renting]) -> Renting:
    """A cloud whose instances are only data: for what needs no machine."""
    return rent(machines="none")


LAUNCH = ("action=launch", "instance=gpu_1x_a10", "instance.regions=[us-west-1,us-east-1]")


def test_a_machine_from_nothing_to_nothing(rent: Callable[..., Renting]) -> None:
    """up, ssh, status, a guard that refuses, a machine that ends, a configuration that is as before."""
    renting = rent()
    config = renting.home / ".ssh/config"
    config.write_bytes(b"# mine\r\nHost other\n  Port 99\nHost *\n  User me")
    config.chmod(0o644)
    before = config.read_bytes()
    done = renting.up()
    assert "us-" in done.stdout and "/h" in done.stdout.splitlines()[-1], "ends with what it costs"
    assert renting.ssh("nvidia-smi -L").startswith("GPU 0")
    other = subprocess.run(["ssh", "-F", str(config), "-G", "other"], capture_output=True, text=True).stdout
    assert "port 99" in other and "user me" in other and "hostkeyalias" not in other
    assert config.stat().st_mode & 0o777 == 0o644

    phase = "Fractal/research-log/phase12-fractal-sampler"
    renting.ssh(
        f"mkdir -p {phase}/checkpoints {phase}/runs/0001-train && echo weights >{phase}/checkpoints/a.pt"
    )
    run = f"{phase}/runs/0001-train"
    measured = '{"step": 200, "loss": 0.25, "samples_per_second": 424.2}'
    renting.ssh(f"printf 'checkpoints/\\0' >{run}/artifacts")
    renting.ssh(f"echo t >{run}/token; touch -d '-9 seconds' {run}/token")
    renting.ssh(f"echo '{measured}' >{run}/metrics.jsonl; touch -d '-5 seconds' {run}/metrics.jsonl")
    renting.ssh(f"echo 0 >{run}/exit_code")
    (instance,) = renting.json("action=status")["instances"]
    assert instance["runs"][0]["metrics"] == {"loss": 0.25}
    assert instance["runs"][0]["throughput"] == {"samples_per_second": 424.2}
    told = "lambda 0001-train: ended with exit code 0, step 200, loss 0.25, 424.2 samples/s"
    assert told in renting("action=status").stdout
    renting.ssh(f"rm {run}/metrics.jsonl")
    assert (instance["name"], instance["state"]) == ("lambda", "active")
    assert [r["state"] for r in instance["runs"]] == ["ended"]
    assert 0 <= instance["idle_s"] <= instance["up_s"] + 1

    renting.ssh(
        "mkdir -p other .cache; echo 123 >other/data.bin; echo x >.cache/x; echo x >Fractal/notes.txt"
    )
    plan = renting.json("action=terminate")
    for name in ("checkpoints/a.pt", "notes.txt", "~/other (1 file, 4 bytes)"):
        assert name in plan["reason"]
    assert ".cache" not in plan["reason"]
    assert "~/other (1 file, 4 bytes)" in renting("action=terminate").stdout
    renting.ssh("rm -r other Fractal/notes.txt")
    refused = renting("action=terminate", f"confirm={plan['digest']}")
    assert (refused.exit_code, len(renting.cloud.alive())) == (77, 1)
    here = renting.folder / phase.removeprefix("Fractal/") / "checkpoints"
    here.mkdir(parents=True)
    (here / "a.pt").write_text("weights\n")
    ended = renting.terminate()
    assert ended.exit_code == 0, ended
    assert "total" in ended.stderr
    assert renting.cloud.alive() == []
    assert config.read_bytes() == before
    assert renting.terminate().exit_code == 0, "ending twice harms nobody"
    assert renting.json("action=status")["instances"] == []


def test_a_run_that_is_alive_keeps_its_machine_until_it_is_named(rent: Callable[..., Renting]) -> None:
    renting = rent()
    renting.up()
    run = "Fractal/research-log/phase12-fractal-sampler/runs/0001-train"
    renting.ssh(
        f"mkdir -p {run}; echo t >{run}/token; "
        f"setsid --fork flock -n {run}/lock sleep 600 </dev/null >/dev/null 2>&1; sleep 0.5"
    )
    assert "alive" in renting.json("action=terminate")["reason"]
    assert renting.terminate().exit_code == 77
    assert renting.terminate("discard=[0002-train]").exit_code == 77
    assert len(renting.cloud.alive()) == 1
    assert renting.terminate("discard=[0001-train]").exit_code == 0
    assert renting.cloud.alive() == []


def test_what_cannot_be_seen_is_not_backed_up(rent: Callable[..., Renting]) -> None:
    renting = rent()
    renting.up()
    folder = renting.folder / "research-log/phase12-fractal-sampler/runs/0001-train"
    folder.mkdir(parents=True)
    instance = {"name": "lambda", "provider": "lambda"}
    (folder / "plan.json").write_text(json.dumps({"instance": instance}))
    name = renting.cloud.alive()[0].name
    renting.cloud.machine(name).halt()
    assert "cannot be seen" in renting.json("action=terminate")["reason"]
    assert renting.terminate().exit_code == 77
    assert renting.terminate("discard=[unreachable]").exit_code == 0
    assert renting.cloud.alive() == []


def test_a_machine_on_which_nothing_was_started_may_end_in_any_state(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("unhealthy"), Fault("no-ip"))
    assert consented(paper, *LAUNCH).exit_code == 0
    assert paper.terminate().exit_code == 0
    assert paper.cloud.alive() == []


def by_hand(renting: Renting, name: str) -> str:
    """Launch without the runner, as in the console; its id."""
    account = renting.cloud.account
    key = {"name": "hand", "public_key": (renting.home / ".ssh/id_ed25519.pub").read_text()}
    account.add_ssh_key(key)
    body = {
        "region_name": "us-west-1",
        "instance_type_name": "gpu_1x_a10",
        "ssh_key_names": ["hand"],
        "name": name,
    }
    import httpx

    answer = httpx.post(
        f"{renting.cloud.base_url}/instance-operations/launch",
        json=body,
        headers={"Authorization": f"Bearer {renting.cloud.api_key}"},
    )
    return str(answer.json()["data"]["instance_ids"][0])


def test_a_machine_launched_by_hand_can_be_used_and_ended(rent: Callable[..., Renting]) -> None:
    renting = rent()
    its_id = by_hand(renting, "by hand; $(touch x)")
    assert renting("action=wait", f"machine={its_id}").exit_code == 0
    assert renting("action=setup-ssh", f"machine={its_id}", "confirm=true").exit_code == 0
    assert renting.ssh("echo here", alias=its_id) == "here\n"
    (row,) = renting.json("action=status")["instances"]
    assert (row["ours"], row["name"]) == (False, "by hand; $(touch x)")
    assert renting.terminate(f"machine={its_id}").exit_code == 0
    assert renting.cloud.alive() == []


def test_a_lost_answer_neither_loses_nor_doubles_the_machine(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("lose-answer", match="launch", times=1))
    done = consented(paper, *LAUNCH)
    assert done.exit_code == 0, done
    assert len(paper.cloud.alive()) == 1
    (row,) = paper.json("action=status")["instances"]
    assert row["ours"] and row["id"] == paper.cloud.alive()[0].id


def test_a_machine_that_is_alive_is_not_rented_again(paper: Renting) -> None:
    digest = paper.json(*LAUNCH)["digest"]
    assert paper(*LAUNCH, f"confirm={digest}").exit_code == 0
    plan = paper.json(*LAUNCH)
    assert (plan["steps"], "machine=<new name>" in plan["reason"]) == ([], True)
    spent = paper(*LAUNCH, f"confirm={digest}")
    assert (spent.exit_code, "spent by lambda-0001-" in spent.stderr) == (77, True)
    assert consented(paper, *LAUNCH, "machine=two").exit_code == 0
    assert len(paper.cloud.alive()) == 2
    several = paper("action=terminate")
    assert several.exit_code == 64
    assert all(i.id in several.stderr for i in paper.cloud.alive())


def test_a_plan_names_its_attempts_with_their_price_and_not_the_capacity(paper: Renting) -> None:
    plan = paper.json(*LAUNCH)
    attempts = [step for step in plan["steps"] if "attempt" in step]
    assert [step["attempt"] for step in attempts] == [1, 2]
    assert [step["request"]["json"]["region_name"] for step in attempts] == ["us-west-1", "us-east-1"]
    assert all(step["command"].startswith("curl ") and step["usd_per_hour"] == 1.29 for step in attempts)
    assert "LAMBDA_API_KEY" in attempts[0]["command"] and paper.cloud.api_key not in str(plan)
    paper.cloud.account.capacity = {"gpu_1x_a10": ()}
    assert paper.json(*LAUNCH)["digest"] == plan["digest"]
    assert not (paper.folder / "state").exists(), "showing leaves no file"


def test_attempts_are_a_table_and_one_curl_line(paper: Renting) -> None:
    attempts = [step for step in paper.json(*LAUNCH)["steps"] if "attempt" in step]
    text = paper(*LAUNCH).stdout
    for row in ("1  gpu_1x_a10  us-west-1  $1.29/h  free now", "2  gpu_1x_a10  us-east-1  $1.29/h  free now"):
        assert f" {row}\n" in text
    assert f"    {attempts[0]['command']}\n" in text
    assert attempts[1]["command"] not in text
    assert attempts[0]["command"].replace("us-west-1", "us-east-1") == attempts[1]["command"]


@pytest.mark.parametrize("instance", ["gpu_1x_a10", "gpu_8x_a100"])
def test_the_plan_of_up_fits_a_screen_and_leaves_nothing_out(paper: Renting, instance: str) -> None:
    paper.cloud.account.capacity = {"gpu_1x_a10": ("us-west-1", "us-east-1")}
    words = ("action=up", f"instance={instance}", "wait_for_capacity=2h")
    steps = paper.json(*words)["steps"]
    lines = paper(*words).stdout.replace(str(paper.home), "/home/me").splitlines()
    assert len(lines) <= 35
    assert max(len(line) for line in lines if not re.search("curl |-m runner", line)) <= 100
    text = " ".join(" ".join(lines).split())
    attempts = [step for step in steps if "attempt" in step]
    for kind in {step["type"] for step in attempts}:
        numbers = [step["attempt"] for step in attempts if step["type"] == kind]
        price = next(step["usd_per_hour"] for step in attempts if step["type"] == kind)
        assert f" {numbers[0]}–{numbers[-1]} {kind} ${price:.2f}/h " in text
    free = {step["region"] for step in attempts if instance == "gpu_1x_a10"} & {"us-west-1", "us-east-1"}
    names = [step["region"] + "*" * (step["region"] in free) for step in attempts]
    assert ", ".join(names[: len(set(names))]) in text
    shown = [step for step in steps if step.get("attempt", 1) == 1]
    assert [step["name"] for step in shown] == ["ssh-key", "launch", "wait", "setup-ssh"]
    assert all(step["command"] in text for step in shown)


def test_dollars_are_numbers_with_a_fraction_also_when_they_are_none(paper: Renting) -> None:
    status = paper.json("action=status")
    assert [type(value) for key, value in status.items() if key.startswith("usd")] == [float] * 3
    assert consented(paper, *LAUNCH).exit_code == 0
    (row,) = paper.json("action=status")["instances"]
    assert [type(row[key]) for key in ("usd_per_hour", "usd_so_far")] == [float, float]


def test_no_capacity_is_75_and_waiting_for_it_gets_one(paper: Renting) -> None:
    paper.cloud.account.capacity = {"gpu_1x_a10": ()}
    none = consented(paper, *LAUNCH)
    assert (none.exit_code, paper.cloud.alive()) == (75, [])
    patient = (*LAUNCH, "wait_for_capacity=2h")
    digest = paper.json(*patient)["digest"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *paper.context, *patient, f"confirm={digest}"],
        env=paper.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(3)
    paper.cloud.account.capacity = {"gpu_1x_a10": ("us-east-1",)}
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "nothing is billed meanwhile" in said and "$1.29/h" in said
    assert [i.region for i in paper.cloud.alive()] == ["us-east-1"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("instance.types=[gpu_1x_a01]",), "gpu_1x_a10"),
        (("instance.regions=[us-wst-1]",), "us-west-1"),
        (("instance.filesystem=nope",), "no filesystem nope"),
        (("instance=local",), "instance=gpu_1x_a10"),
        (("ssh.identity=/nowhere/id",), "ssh-keygen"),
        (("machine=a b",), "machine=a b"),
    ],
)
def test_what_the_cloud_does_not_have_is_64_with_the_choices(
    paper: Renting, args: tuple[str, ...], said: str
) -> None:
    done = paper(*LAUNCH, *args)
    assert done.exit_code == 64, done
    assert said in done.stderr


@pytest.mark.parametrize("args", [("instance.max_usd_per_hour=1",), ("budget_usd=1",)])
def test_a_ceiling_refuses_and_the_plan_is_shown_all_the_same(paper: Renting, args: tuple[str, ...]) -> None:
    plan = paper.json(*LAUNCH, *args)
    assert plan["reason"]
    assert consented(paper, *LAUNCH, *args).exit_code == 77
    assert paper.cloud.alive() == []


@pytest.mark.parametrize("key", [None, "", "  ", "a\nb", "schlüssel", "a b"])
def test_a_key_that_cannot_be_one_is_64_and_is_not_shown(paper: Renting, key: str | None) -> None:
    done = paper("action=status", env={"LAMBDA_API_KEY": key})
    assert done.exit_code == 64, done
    assert "LAMBDA_API_KEY" in done.stderr
    assert not key or not key.strip() or key not in done.stderr
    assert paper.cloud.journal.entries() == []


def test_a_key_that_the_cloud_refuses_says_where_to_make_one(paper: Renting) -> None:
    done = paper("action=status", env={"LAMBDA_API_KEY": "wrong"})
    assert (done.exit_code, "cloud.lambda.ai/api-keys" in done.stderr) == (64, True)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("rate-limit", 75),
        ("server-error", 69),
        ("lose-request", 69),
        ("account-inactive", 64),
        ("forbidden", 64),
        ("cloudflare-1010", 64),
        ("redirect", 64),
    ],
)
def test_a_cloud_that_never_gives_an_answer_is_told_by_its_exit_code(
    paper: Renting, fault: str, code: int
) -> None:
    paper.cloud.faults.add(Fault(fault, value=1 if fault == "rate-limit" else None))
    done = paper("action=status")
    assert done.exit_code == code, done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", ["unhealthy", "cuda-802"])
def test_a_machine_that_will_never_work_is_told_with_its_bill(
    rent: Callable[..., Renting], fault: str
) -> None:
    renting = rent(faults=[Fault(fault)])
    assert consented(renting, *LAUNCH).exit_code == 0
    done = renting("action=wait")
    assert done.exit_code == 65, done
    assert "billed at $1.29/h" in done.stderr and "action=terminate" in done.stderr
    assert len(renting.cloud.alive()) == 1, "nothing but terminate ends a machine"
    if fault == "cuda-802":
        assert "802" in done.stderr


def test_a_time_out_never_means_gone(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("no-ip"))
    assert consented(paper, *LAUNCH).exit_code == 0
    done = paper("action=wait", "instance=gpu_1x_a10", "instance.wait_limit_s=1")
    assert (done.exit_code, "not gone" in done.stderr) == (75, True)
    assert "gone" not in (paper.folder / "state/ledger.jsonl").read_text()


def test_a_damaged_ledger_is_kept_aside_and_rebuilt_from_the_cloud(paper: Renting) -> None:
    assert consented(paper, *LAUNCH).exit_code == 0
    ledger = paper.folder / "state/ledger.jsonl"
    ledger.write_bytes(b"\x00garbage\n{]\n")
    done = paper("action=status")
    assert (done.exit_code, "cannot be read" in done.stdout) == (0, True)
    (row,) = paper.json("action=status")["instances"]
    assert row["ours"], "its name says whose it is"
    assert (paper.folder / "state/ledger.jsonl.corrupt-1").read_bytes() == b"\x00garbage\n{]\n"
    assert paper.json(*LAUNCH)["steps"] == []


@pytest.mark.parametrize("spoil", ["state", "state/launch.lock/x", "state/ledger.lock/x"])
def test_where_nothing_can_be_remembered_nothing_is_rented(paper: Renting, spoil: str) -> None:
    """A file where a folder has to be, or the other way round: also root cannot write there."""
    path = paper.folder / spoil
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    done = consented(paper, *LAUNCH)
    assert (done.exit_code, paper.cloud.alive()) == (64, []), done
    assert "cannot be written" in done.stderr and "paths.state=DIR" in done.stderr


def test_a_ledger_that_cannot_be_read_is_said_aloud_and_nothing_is_rented(paper: Renting) -> None:
    (paper.folder / "state/ledger.jsonl").mkdir(parents=True)
    for words, code in ((("action=discover",), 0), (LAUNCH, 64), (("action=doctor",), 0)):
        done = consented(paper, *words) if words == LAUNCH else paper(*words)
        assert done.exit_code == code, done
        assert (
            "It is not known what is running" in done.stderr
            and "may be running, and be billed" in done.stderr
        )
    assert "the ledger cannot be read" in done.stdout
    assert paper.cloud.alive() == []


def test_another_account_s_key_ends_no_machine_in_our_books(rent: Callable[..., Renting]) -> None:
    paper = rent("none")
    assert consented(paper, *LAUNCH).exit_code == 0
    (ours,) = paper.json("action=status")["instances"]
    other = rent("none", key="another_key")
    done = other("action=status")
    assert "No machine is rented" not in done.stdout and "another API key" in done.stdout, done
    assert "Running: lambda" in done.stdout, "and every other verb goes on saying so"
    assert other("action=terminate", "machine=lambda").exit_code == 64
    assert "another_key" not in (paper.folder / "state/ledger.jsonl").read_text()
    assert [i["id"] for i in paper.json("action=status")["instances"]] == [ours["id"]]


def test_two_runners_that_launch_at_once_rent_one_machine(paper: Renting) -> None:
    digest = f"confirm={paper.json(*LAUNCH)['digest']}"
    words = [sys.executable, "-m", "runner", *paper.context, *LAUNCH, digest]
    both = [subprocess.Popen(words, env=paper.env(), stdout=-3, stderr=-3) for _ in range(2)]
    codes = sorted(process.wait(timeout=60) for process in both)
    assert codes in ([0, 77], [0, 0])
    assert len(paper.cloud.alive()) == 1


def test_the_wait_for_a_lost_answer_can_be_left_and_the_launch_stays_in_doubt(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("lose-request", match="launch"))
    slowly = "cloud.time_scale=0.1"  # half a minute is long enough for what follows
    digest = f"confirm={paper.json(*LAUNCH, slowly)['digest']}"
    words = [sys.executable, "-m", "runner", *paper.context, *LAUNCH, slowly, digest]
    runner = subprocess.Popen(words, env=paper.env(), stdout=-1, stderr=-1, text=True)
    assert runner.stderr
    told = next(line for line in runner.stderr if "may be running and be billed" in line)
    assert "Ctrl-C is safe" in told
    runner.send_signal(signal.SIGINT)
    _, stderr = runner.communicate(timeout=30)
    assert runner.returncode == 130, stderr
    assert "Traceback" not in stderr and "Perhaps running: lambda-0001-" in stderr
    assert "may be running" in paper.json(*LAUNCH, slowly)["reason"], (
        "nothing more is rented until that is known"
    )
    assert len(paper.cloud.journal.entries("POST", "launch")) == 1


def test_terminate_without_a_digest_asks_a_terminal_for_the_name(paper: Renting) -> None:
    assert consented(paper, *LAUNCH).exit_code == 0
    nobody = paper("action=terminate", "confirm=true")
    assert (nobody.exit_code, len(paper.cloud.alive())) == (77, 1)
    digest = re.search(r"confirm=(p[0-9a-f]{12})", nobody.stderr)
    assert digest and paper.json("action=terminate")["digest"] == digest[1]
    end = ("action=terminate", "confirm=true")
    assert typed(paper, end, "Type the machine", "lambada\n")[0] == 77
    assert len(paper.cloud.alive()) == 1
    assert typed(paper, end, "Type the machine", "lambda\n")[0] == 0
    assert paper.cloud.alive() == []


@pytest.mark.parametrize("action", ["launch", "up"])
@pytest.mark.parametrize("word", ["confirm=true", "confirm=ask"])
def test_paying_without_a_digest_asks_a_terminal(paper: Renting, action: str, word: str) -> None:
    words = (f"action={action}", *LAUNCH[1:])
    nobody = paper(*words, word)
    assert (nobody.exit_code, paper.cloud.alive()) == (77, [])
    assert f"confirm={paper.json(*words)['digest']}\n" in nobody.stderr
    assert not (paper.folder / "state").exists()
    code, shown = typed(paper, (*words, word), "[y/N]", "n\n")
    assert (code, paper.cloud.alive()) == (77, [])
    assert "$1.29 an hour" in shown and shown.count("Plan p") == 1


def test_a_yes_at_a_terminal_rents(paper: Renting) -> None:
    code, _ = typed(paper, (*LAUNCH, "confirm=ask"), "Run exactly this? [y/N]", "y\n")
    assert (code, len(paper.cloud.alive())) == (0, 1)


def test_what_changed_while_a_person_thought_is_not_paid(paper: Renting) -> None:
    def another_key() -> None:
        key = paper.home / ".ssh/id_ed25519"
        key.unlink()
        key.with_suffix(".pub").unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)

    code, shown = typed(paper, (*LAUNCH, "confirm=ask"), "[y/N]", "y\n", meanwhile=another_key)
    assert (code, paper.cloud.alive()) == (77, [])
    assert "something changed" in shown


def typed(
    renting: Renting,
    words: tuple[str, ...],
    question: str,
    answer: str,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """The runner at a terminal, with a person's answer to this question: its exit code, what it showed."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "runner", *renting.context, *words]
    process = subprocess.Popen(line, env=renting.env(), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while question.encode() not in seen:
        seen += os.read(ours, 4096)
    meanwhile()
    os.write(ours, answer.encode())
    try:
        while more := os.read(ours, 4096):
            seen += more
    except OSError:
        pass  # the terminal's other end is closed
    os.close(ours)
    return process.wait(timeout=60), seen.decode(errors="replace").replace("\r\n", "\n")


def test_only_terminate_destroys_and_only_it_can_ask_the_cloud_for_an_end() -> None:
    assert [verb.name for verb in VERBS if verb.effect is Effect.DESTROY] == ["terminate"]
    assert GONE == ("terminated",)
    sources = Path(__file__).parents[2].joinpath("runner").rglob("*.py")
    using = {path.stem for path in sources if "terminate_request" in path.read_text()}
    assert using == {"lambda_api", "terminate"}


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS if verb.name != "terminate"])
def test_no_other_verb_terminates(verb: str, paper: Renting) -> None:
    """Every verb, confirmed, while a machine is rented: no request to end it is ever sent."""
    assert consented(paper, *LAUNCH).exit_code == 0
    args = [
        f"action={verb}",
        "instance=gpu_1x_a10",
        "confirm=true",
        "instance.wait_limit_s=1",
        "command=true",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *paper.context, *args],
        env=paper.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(timeout=8)
    except subprocess.TimeoutExpired:
        process.kill()
    assert paper.cloud.journal.entries("POST", "terminate") == []


def test_the_key_appears_nowhere(rent: Callable[..., Renting], tmp_path: Path) -> None:
    """Not in what is printed, not in a file, not in the arguments of any process that was ever started."""
    renting = rent()
    words = (*renting.context, *phase_of_one_job(renting))

    def runner(*more: str) -> Done:
        return watched(renting, sys.executable, "-m", "runner", *words, *more)

    said = [runner("action=available"), runner(*LAUNCH), runner(*LAUNCH, "output=json")]
    pasted = watched(renting, "bash", "-c", said[-1].plan["steps"][0]["command"])
    assert (pasted.exit_code, len(renting.cloud.account.keys)) == (0, 1), "the curl line works as printed"
    up = consented(runner, "action=up", *LAUNCH[1:])
    job = runner("phase=phase1", "action=run", "command=env", "confirm=true", LAUNCH[1])
    assert (up.exit_code, job.exit_code) == (0, 0), (up, job)
    said += [pasted, up, job, runner("action=status"), runner("action=doctor"), runner("action=terminate")]
    for fault in ("forbidden", "invalid-key", "lose-request"):
        renting.cloud.faults.add(Fault(fault))
        said.append(runner("action=status"))
        renting.cloud.faults.clear()
    said.append(runner("action=terminate", f"confirm={renting.json('action=terminate')['digest']}"))

    commands = (tmp_path / "argv").read_text(errors="replace")
    assert len(re.findall(r'execve\("[^"]*/(?:ssh|curl|python[^/"]*)"', commands)) > 20
    assert CANARY not in commands
    assert not [done for done in said if CANARY in done.stdout + done.stderr]
    assert '"run", "name": "lambda", "run": ' in (renting.folder / "state/ledger.jsonl").read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"ledger.jsonl", "known_hosts", "config", "plan.json", "log"} <= {path.name for path in files}
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def watched(renting: Renting, *words: str) -> Done:
    """A command, the arguments of every process below it on record in the file `argv`.

    The tracer is beside it (-D), not above: a shared connection of ssh outlives the command.
    """
    strace = (
        "strace",
        "-DDD",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-A",
        "-s",
        "100000",
        "-e",
        "trace=execve",
        "-e",
        "signal=none",
    )
    out, err = renting.folder / "out", renting.folder / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        done = subprocess.run(
            [*strace, "-o", str(renting.folder / "argv"), *words],
            cwd=renting.folder,
            env=renting.env(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout=90,
        )
    return Done(done.returncode, out.read_text(), err.read_text())


def test_an_answer_that_echoes_the_key_goes_no_further(paper: Renting) -> None:
    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            error = {
                "code": "global/invalid-parameters",
                "message": f"What is {self.headers['Authorization']}?",
            }
            body = json.dumps({"error": error}).encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = paper("action=status", f"cloud.base_url=http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (done.exit_code, "What is Bearer $LAMBDA_API_KEY?" in done.stderr) == (64, True), done
    assert CANARY not in done.stdout + done.stderr


def phase_of_one_job(renting: Renting) -> tuple[str, ...]:
    """A phase for `run`, and the words that make the runner know it."""
    lab = Lab(renting.folder, renting.folder / ".venv")
    lab.add_phase()
    return ("--config-dir", str(lab.conf))

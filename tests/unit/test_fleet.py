"""What the verbs make of the cloud's list and the ledger on disk: whose machine, since when, gone or not."""

import json
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from runner.config.freeze import load
from runner.errors import Refused, UsageError
from runner.machines.launch import launch
from runner.machines.ledger import LEDGER, OWNER, Ledger, installation_id, read_ledger
from runner.machines.status import Status, status, wait
from runner.machines.terminate import terminate
from runner.plan.command import Command
from runner.plan.plan import Plan, Request
from runner.plan.settings import Settings
from runner.view.tables import running_lines
from runner.view.text import Paint, report_text
from runner.world.files import append, only_launch
from runner.world.http import fingerprint
from runner.world.live import drive
from runner.world.world import Account, Fact, Now, Pause, Record, Result

ID = "1" * 32
TYPE = {"name": "gpu_1x_a10", "price_cents_per_hour": 129, "gpu_description": "A10", "specs": {"gpus": 1}}
HOUR = 3600.0


class World:
    """A cloud in memory, a clock, and a ledger on disk; no machine answers ssh."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / ".runner"
        self.now = 1e6
        self.lists: list[list[dict[str, Any]]] = []  # the coming answers; the last one stays
        self.lines: list[str] = []
        self.account = "first"

    def settings(self, *words: str) -> Settings:
        """As typed in the home folder."""
        return load(["instance=gpu_1x_a10", f"paths.state={self.state}", *words], self.home)

    def ask(self, asking: Generator[Any, Any, Any]) -> Any:
        """What a verb makes of this world."""
        return drive(asking, self.reply)

    def reply(self, question: Any) -> Any:
        if isinstance(question, Now):
            return self.now
        if isinstance(question, Account):
            return self.account
        if isinstance(question, Pause):
            self.now += question.seconds
            return self.lines.append(question.line)
        if isinstance(question, Record):
            return self.write(**dict(question.entry))
        assert isinstance(question, Fact)
        if isinstance(question.ask, Command):
            return question.read(Result(255, b"", b"ssh: connect to host: Connection timed out"))
        return question.read(Result(0, json.dumps({"data": self.get(question.ask)}).encode(), status=200))

    def get(self, request: Request) -> Any:
        answers: dict[str, Any] = {
            "instance-types": {"gpu_1x_a10": {"instance_type": TYPE, "regions_with_capacity_available": []}},
            "regions": [{"name": "us-east-1"}],
        }
        what = request.url.rpartition("/")[2]
        if what == "instances":
            return self.lists.pop(0) if len(self.lists) > 1 else [*self.lists, []][0]
        return answers.get(what, [])

    def write(self, event: str, **values: Any) -> None:
        append(self.state / LEDGER, {"event": event, "at": self.now, **values})

    def ledger(self) -> Ledger:
        return read_ledger(self.state)

    def status(self, *words: str) -> Status:
        report = self.ask(status(self.settings("action=status", *words)))
        assert isinstance(report, Status)
        return report

    def plan(self, *words: str) -> Plan:
        """Of launch or terminate."""
        verb = {"action=launch": launch, "action=terminate": terminate}[words[0]]
        plan = self.ask(verb(self.settings(*words)))
        assert isinstance(plan, Plan)
        return plan

    def launched(self, name: str) -> None:
        """A launch of ours, asked for and answered."""
        price = {"type": "gpu_1x_a10", "region": "us-east-1", "usd_per_hour": 1.29}
        self.write("intent", name=name, digest="p000000000000", account=self.account, **price)
        self.write("launched", id=ID, name=name, account=self.account, **price)


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("HOME", str(home))
    return World(home)


def row(name: str, **values: Any) -> dict[str, Any]:
    """A machine in the cloud's list."""
    there = {"region": {"name": "us-east-1"}, "instance_type": TYPE, "ip": "203.0.113.9"}
    return {"id": ID, "name": name, "status": "active", **there, **values}


def test_a_machine_of_a_rebuilt_ledger_costs_at_least_and_may_hold_anything(world: World) -> None:
    """Its runs may be older than the ledger, so that nothing here says that it holds nothing."""
    name = f"lambda-0001-{installation_id(world.settings())}"
    world.lists = [[row(name)]]
    world.status()
    world.now += HOUR
    (one,) = world.status().document()["instances"]
    assert (one["ours"], one["at_least"], one["usd_so_far"]) == (True, True, 1.29)
    text = report_text(world.status(), Paint(False))
    assert "≥ 1.29" in text and "≥ $1.29 so far" in text and "this month: ≥ $1.29" in text
    (line,) = running_lines(world.ledger(), world.now)
    assert "up ≥ 1 h" in line and "≥ $1.29 so far" in line
    plan = world.ask(terminate(world.settings("action=terminate")))
    assert isinstance(plan, Plan) and "cannot be seen" in str(plan.reason)
    assert "≥ $1.29" in dict(plan.details)["cost"]


def test_a_machine_that_was_asked_for_and_never_used_can_go_unseen(world: World) -> None:
    name = f"lambda-0001-{installation_id(world.settings())}"
    world.launched(name)
    world.lists = [[row(name)]]
    (one,) = world.status().document()["instances"]
    assert (one["ours"], one["at_least"]) == (True, False)
    plan = world.ask(terminate(world.settings("action=terminate")))
    assert isinstance(plan, Plan) and plan.reason is None


def add_key(world: World, key: str) -> None:
    """The one ssh key of this home."""
    (world.home / ".ssh").mkdir(exist_ok=True)
    (world.home / ".ssh/id_ed25519").touch()
    (world.home / ".ssh/id_ed25519.pub").write_text(f"ssh-ed25519 {key}\n")


def test_a_second_laptop_of_the_same_name_and_path_is_somebody_else(world: World) -> None:
    """Only its ssh key differs; nothing of the first one's state is there."""
    add_key(world, "AAAAfirst")
    first = installation_id(world.settings())
    assert installation_id(world.settings()) == first, "a plan is shown, and then confirmed"
    add_key(world, "AAAAsecond")
    assert installation_id(world.settings()) != first
    world.lists = [[row(f"lambda-0001-{first}")]]
    (one,) = world.status().document()["instances"]
    assert (one["ours"], one["at_least"]) == (False, True)
    with pytest.raises(UsageError) as caught:
        world.ask(terminate(world.settings("action=terminate")))
    assert f"machine={ID}" in caught.value.hints[0] and "not launched from here" in caught.value.message
    plan = world.ask(terminate(world.settings("action=terminate", f"machine={ID}")))
    assert "cannot be seen" in str(plan.reason)


def test_whose_the_machines_are_is_kept_from_the_first_launch_on(world: World) -> None:
    add_key(world, "AAAAfirst")
    first = installation_id(world.settings())
    assert not (world.state / OWNER).exists()
    with only_launch(world.state, f"lambda-0001-{first}"):
        assert (world.state / OWNER).read_text() == f"{first}\n"
    add_key(world, "AAAAnew")
    assert installation_id(world.settings()) == first, (
        "another key, another host name or another path: still ours"
    )
    world.lists = [[row(f"lambda-0001-{first}")]]
    (one,) = world.status().document()["instances"]
    assert one["ours"], "the ledger is gone, and the name says whose it is"
    with pytest.raises(Refused), only_launch(world.state, "lambda-0002-ffffff"):
        pass
    assert (world.state / OWNER).read_text() == f"{first}\n"


def test_an_owner_that_a_disk_spoilt_is_made_anew(world: World) -> None:
    add_key(world, "AAAAfirst")
    first = installation_id(world.settings())
    world.state.mkdir()
    (world.state / OWNER).write_bytes(b"\x00\xff\n")
    assert installation_id(world.settings()) == first
    with only_launch(world.state, f"lambda-0001-{first}"):
        assert (world.state / OWNER).read_text() == f"{first}\n"


OURS = "lambda-0001-abcdef"


def test_a_list_that_another_key_is_given_ends_no_machine(world: World) -> None:
    """The key of a second account in the environment, while a machine of the first one runs."""
    world.launched(OURS)
    world.lists = [[row(OURS)]]
    world.status()
    world.account, world.lists, before = "second", [[]], world.ledger()
    world.now += 9 * HOUR
    report = world.status()
    assert world.ledger() == before, "nothing is written of what this key cannot see"
    assert report.document()["uncertain"] == [OURS]
    text = report_text(report, Paint(False))
    assert "No machine is rented" not in text and "rented with another API key" in text and "$1.29/h" in text
    assert running_lines(world.ledger(), world.now)[0].startswith("Running: lambda")
    assert "rented with another API key" in str(world.plan("action=launch").reason)
    for machine in ((), (f"machine={OURS}",)):
        with pytest.raises(UsageError, match="rented with another API key") as caught:
            world.plan("action=terminate", *machine)
        assert "LAMBDA_API_KEY" in caught.value.hints[0]
    with pytest.raises(UsageError, match="rented with another API key"):
        world.ask(wait(world.settings("action=wait")))
    world.account = "first"
    world.status()
    assert world.ledger().ours == (), "its own key's list says that it is gone"


def test_a_machine_that_a_new_key_of_the_account_shows_is_that_key_s_too(world: World) -> None:
    world.launched(OURS)
    world.account, world.lists = "new key", [[row(OURS)]]
    assert world.status().document()["uncertain"] == []
    world.lists = [[]]
    world.status()
    assert world.ledger().ours == ()


def test_a_machine_whose_key_is_gone_for_good_can_be_forgotten(world: World) -> None:
    world.launched(OURS)
    world.account = "second"
    (warning,) = world.status().warnings
    line = warning[warning.index("sed -i.bak") :]
    subprocess.run(["bash", "-c", line], cwd=world.home, check=True)
    assert world.status().document()["uncertain"] == []


def test_a_list_that_flaps_ends_no_machine_and_lets_none_be_rented(world: World) -> None:
    world.launched(OURS)
    world.lists = [[row(OURS)]]
    world.status()
    world.now += HOUR
    for gap in (1, 2):
        world.lists = [[]] * gap + [[row(OURS)]]
        assert f"({ID}) is active" in str(world.plan("action=launch").reason)
        world.lists = [[]] * gap + [[row(OURS)]]
        assert len(world.status().instances) == 1
    assert "gone" not in (world.state / LEDGER).read_text()
    assert all("does not show" in line for line in world.lines)
    world.lists = [[]]
    world.status()
    assert world.ledger().ours == (), "three lists without it are believed"


def test_the_fingerprint_tells_accounts_apart_and_nothing_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_API_KEY", "secret_a")
    one = fingerprint("https://cloud/api/v1")
    assert one == fingerprint("https://cloud/api/v1") != fingerprint("http://127.0.0.1/api/v1")
    monkeypatch.setenv("LAMBDA_API_KEY", "secret_b")
    assert fingerprint("https://cloud/api/v1") != one and "secret" not in one

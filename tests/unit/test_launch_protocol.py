"""A launch through any storm: never twice, never lost; driven as a generator against a cloud in memory."""

import contextlib
import json
import random
import re
from collections.abc import Generator
from typing import Any

import pytest

from runner.errors import TryLater, Unreachable, UsageError
from runner.machines.fleet import Fleet, ledger_updates
from runner.machines.lambda_api import (
    CloudInstance,
    add_ssh_key_request,
    instance_of,
    launch_request,
    terminate_request,
)
from runner.machines.launch_protocol import Launch, Outcome, carry_out, launch_any
from runner.machines.ledger import SETTLE_S, Ledger, fold
from runner.plan.plan import Effect, Offer, Request, Step
from runner.world.live import drive
from runner.world.world import Account, Fact, Now, Pause, Record, Result

BASE = "https://cloud.lambda.ai/api/v1"
NAME = "lambda-0001-abcdef"
REGIONS = ("us-west-1", "us-east-1", "us-south-1")
TYPE = {"name": "gpu_1x_a10", "price_cents_per_hour": 129, "gpu_description": "A10", "specs": {"gpus": 1}}


class Killed(Exception):
    """The runner was killed between two of its questions."""


class World:
    """A cloud, a clock and a ledger in memory; `storm` is the chance that something goes wrong."""

    def __init__(self, seed: int, storm: float = 0.0, kill_at: int | None = None) -> None:
        self.chance = random.Random(seed)
        self.storm = storm
        self.kill_at = kill_at
        self.now = 1000.0
        self.instances: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.refusing: set[str] = set()
        self.free = list(REGIONS)
        self.asked: list[str] = []
        self.lines: list[str] = []
        self.late_s: tuple[float, ...] = (0, 0, 3, 12, 60, 290)  # after which the list shows what was rented
        self.num_questions = 0

    def drive(self, asking: Generator[Any, Any, Any]) -> Any:
        """What a verb makes of this world, unless it is killed at one of its questions."""
        return drive(asking, self.reply_or_kill)

    def reply_or_kill(self, question: Any) -> Any:
        self.num_questions += 1
        if self.kill_at == self.num_questions:
            raise Killed
        return self.reply(question)

    def reply(self, question: Any) -> Any:
        if isinstance(question, Now):
            return self.now
        if isinstance(question, Account):
            return "a1"
        if isinstance(question, Pause):
            self.now += question.seconds
            self.lines.append(question.line)
            return None
        if isinstance(question, Record):
            self.entries.append(dict(question.entry) | {"at": self.now})
            return None
        assert isinstance(question, Fact) and isinstance(question.ask, Request)
        return question.read(self.http(question.ask))

    def http(self, request: Request) -> Result:
        self.now += 1.0
        self.asked.append(f"{request.method} {request.url.removeprefix(BASE)}")
        if request.method == "GET":
            for _ in range(6):  # world/http.py asks again
                result = self.spoilt(request, self.chance.random() < self.storm)
                if result is None:
                    return self.get(request.url.removeprefix(BASE))
                self.now += 4.0
            return result
        if (spoilt := self.spoilt(request, self.chance.random() < self.storm)) is not None:
            return spoilt
        done = self.post(request)
        return self.lost() if self.chance.random() < self.storm else done

    def spoilt(self, request: Request, strikes: bool) -> Result | None:
        """An answer without an effect."""
        del request
        if not strikes:
            return None
        return self.chance.choice(
            [
                Result(22, b"error code: 1015", b"3", status=429),
                Result(22, b'{"retry_after": 5}', status=429),
                Result(22, b"<html>502</html>", status=502),
                Result(22, b'{"error": {"code": "global/internal-error", "message": "x"}}', status=409),
                Result(7, b"", b"ConnectError: refused"),
            ]
        )

    def lost(self) -> Result:
        """The effect is there and the answer is not."""
        return self.chance.choice(
            [
                Result(52, b"", b"RemoteProtocolError: no answer"),
                Result(28, b"", b"ReadTimeout: "),
                Result(22, b"<html>504</html>", status=504),
                Result(0, b"<html>welcome</html>", status=200),
                Result(0, b'{"data": {"instance_ids": []}}', status=200),
            ]
        )

    def get(self, path: str) -> Result:
        if path == "/instances":
            shown = [i for i in self.instances if i["visible_at"] <= self.now and not self.is_over(i)]
            return ok(shown)
        if path == "/instance-types":
            regions = [{"name": name} for name in self.free]
            return ok({"gpu_1x_a10": {"instance_type": TYPE, "regions_with_capacity_available": regions}})
        if path == "/ssh-keys":
            return ok([])
        raise AssertionError(path)

    def is_over(self, instance: dict[str, Any]) -> bool:
        return bool(instance.get("ends_at", 1e12) <= self.now)

    def post(self, request: Request) -> Result:
        body = request.json
        if request.url.endswith("/terminate"):
            for instance in self.instances:
                if instance["id"] in body["instance_ids"]:
                    instance.update(status="terminating", ends_at=self.now + 20)
            return ok({"terminated_instances": []})
        if body["region_name"] in self.refusing:
            code = "instance-operations/launch/insufficient-capacity"
            return Result(22, json.dumps({"error": {"code": code, "message": "no"}}).encode(), status=400)
        new = {
            "id": f"{len(self.instances):032x}",
            "name": body["name"],
            "status": "booting",
            "region": {"name": body["region_name"]},
            "instance_type": TYPE,
            "visible_at": self.now + self.chance.choice(self.late_s),
        }
        self.instances.append(new)
        return ok({"instance_ids": [new["id"]]})

    def ledger(self) -> Ledger:
        return fold(self.entries)

    def next_contact(self) -> Ledger:
        """What the next verb makes of the list."""
        self.now += 60
        seen = Fleet(self.ledger(), tuple(map(instance_of, self.instances)), self.now)
        for record in ledger_updates(seen, "abcdef"):
            self.reply(record)
        return self.ledger()


def ok(data: Any) -> Result:
    return Result(0, json.dumps({"data": data}).encode(), status=200)


def attempts(regions: tuple[str, ...] = REGIONS) -> tuple[Step, ...]:
    return tuple(
        Step(
            "launch",
            launch_request(
                BASE, name=NAME, type_name="gpu_1x_a10", region=region, ssh_key="k", tag=("a-b", "c")
            ),
            Effect.PAY,
            attempt=number,
            offer=Offer("gpu_1x_a10", region, 1.29),
        )
        for number, region in enumerate(regions, 1)
    )


def launch(world: World, wait_for_capacity_s: float = 0.0) -> Launch:
    result = world.drive(launch_any(attempts(), "p000000000000", wait_for_capacity_s))
    assert isinstance(result, Launch)
    return result


def launches(world: World) -> int:
    return sum(line.endswith("/launch") for line in world.asked)


def test_the_intent_is_on_disk_before_the_request_and_the_id_after_it() -> None:
    world = World(0)
    assert launch(world).instance_id == world.instances[0]["id"]
    assert [entry["event"] for entry in world.entries] == ["intent", "launched"]
    assert world.entries[0]["at"] < world.entries[1]["at"]


def test_refused_capacity_goes_on_to_the_next_region() -> None:
    world = World(0)
    world.refusing = {"us-west-1"}
    result = launch(world)
    assert [sent.exit_code for sent in result.result()] == [75, 0]
    assert world.instances[0]["region"]["name"] == "us-east-1"


def test_an_attempt_that_has_nothing_free_is_not_sent() -> None:
    world = World(0)
    world.free = ["us-south-1"]
    result = launch(world)
    assert launches(world) == 1
    assert [sent.exit_code for sent in result.result()] == [75, 75, 0]


def test_nothing_free_is_try_later_and_rents_nothing() -> None:
    world = World(0)
    world.free = []
    result = launch(world)
    assert {type(sent.error) for sent in result.result()} == {TryLater}
    assert ([entry["event"] for entry in world.entries], launches(world)) == (["refused"], 0)
    assert (world.ledger().machines, world.ledger().spent("p000000000000")) == ((), None)
    refusal = world.ledger().refusal
    assert refusal and refusal.type == "gpu_1x_a10" and refusal.code.endswith("insufficient-capacity")


def test_waiting_for_capacity_rents_what_comes_free_and_says_that_it_costs_nothing() -> None:
    world = World(0)
    world.free = []
    original = world.get

    def get(path: str) -> Result:
        if world.now > 1600:
            world.free = ["us-east-1"]
        return original(path)

    world.get = get  # type: ignore[method-assign]
    assert launch(world, wait_for_capacity_s=7200).instance_id is not None
    assert world.now < 1700
    assert any("nothing is billed" in line and "$1.29/h" in line for line in world.lines)


def test_a_price_above_the_plan_s_is_not_paid() -> None:
    world = World(0)
    (dear,) = attempts(("us-west-1",))
    cheap = Step(dear.name, dear.action, attempt=1, offer=Offer("gpu_1x_a10", "us-west-1", 1.00))
    result = world.drive(launch_any((cheap,), "p000000000000", 0.0))
    assert (result.instance_id, launches(world)) == (None, 0)


def test_a_definite_refusal_ends_the_launch_without_a_doubt() -> None:
    world = World(0)
    body = b'{"error": {"code": "global/quota-exceeded", "message": "no more"}}'
    world.post = lambda _request: Result(22, body, status=400)  # type: ignore[method-assign]
    result = launch(world)
    assert launches(world) == 1
    assert result.result()[0].exit_code == 77
    assert world.ledger().ours == ()


def test_a_list_that_cannot_be_had_leaves_the_launch_in_doubt_and_sends_nothing_more() -> None:
    world = World(0)
    original = world.get
    world.post = lambda _request: Result(52, b"", b"gone")  # type: ignore[method-assign]
    world.get = lambda path: original(path) if "types" in path else Result(7, b"", b"down")  # type: ignore[method-assign]
    result = launch(world)
    assert launches(world) == 1
    assert isinstance(result.result()[-1].error, Unreachable)
    assert [m.name for m in world.ledger().ours] == [NAME]


@pytest.mark.parametrize("seed", range(40))
def test_no_storm_rents_twice_or_loses_what_it_rented(seed: int) -> None:
    for number in range(25):
        world = World(seed * 1000 + number, storm=0.35)
        world.refusing = {r for r in REGIONS if world.chance.random() < 0.3}
        result = launch(world, wait_for_capacity_s=world.chance.choice([0.0, 600.0]))
        assert len(world.instances) <= 1
        known = {m.id for m in world.next_contact().ours}
        assert {i["id"] for i in world.instances} <= known
        if result.instance_id:
            assert [i["id"] for i in world.instances] == [result.instance_id]


@pytest.mark.parametrize("seed", range(40))
def test_a_runner_killed_anywhere_leaves_a_machine_that_the_next_contact_knows(seed: int) -> None:
    for number in range(25):
        chance = random.Random(seed * 1000 + number)
        world = World(seed * 1000 + number, storm=0.25, kill_at=chance.randint(1, 14))
        with contextlib.suppress(Killed):
            launch(world, wait_for_capacity_s=60.0)
        before = {m.name for m in world.ledger().ours}
        if world.instances:
            assert before == {NAME}, "an intent was on disk before the request"
        assert len(world.instances) <= 1
        assert {i["id"] for i in world.instances} <= {m.id for m in world.next_contact().ours}


class Lossy(World):
    """The answers to the first `num_lost` launches are lost; the list is `late_s` seconds late."""

    def __init__(self, late_s: float, num_lost: int = 1, answer: Result | None = None) -> None:
        super().__init__(0)
        self.late_s = (late_s,)
        self.num_lost = num_lost
        self.answer = answer or Result(52, b"", b"RemoteProtocolError: no answer")

    def http(self, request: Request) -> Result:
        done = super().http(request)
        if not request.url.endswith("/launch") or not self.num_lost:
            return done
        self.num_lost -= 1
        return self.answer


@pytest.mark.parametrize("late_s", [0, 1, 29, 31, 60, 120, 299])
def test_a_machine_that_the_list_shows_minutes_late_is_not_rented_twice(late_s: float) -> None:
    """The answer was lost, and the list knows nothing for longer than half a minute."""
    world = Lossy(late_s)
    result = launch(world)
    assert [i["id"] for i in world.instances] == [result.instance_id]
    assert (launches(world), [m.id for m in world.ledger().ours]) == (1, [result.instance_id])


def test_the_wait_for_a_lost_answer_says_what_may_be_billed_and_that_it_can_be_left() -> None:
    world = Lossy(200)
    launch(world)
    (line,) = {line.replace("300 s", "N s") for line in world.lines[:1]}
    for words in (NAME, "may be running and be billed", "for N s more", "Ctrl-C is safe", "action=status"):
        assert words in line
    assert len({re.sub(r"\d", "", line) for line in world.lines}) == 1, "told anew once a minute"


def test_a_request_is_repeated_when_its_machine_can_no_longer_come_up() -> None:
    world = Lossy(0)
    post, dropped = world.post, ok({})
    world.post = lambda request: post(request) if launches(world) > 1 else dropped  # type: ignore[method-assign]
    assert launch(world).instance_id == world.instances[0]["id"]
    assert (launches(world), len(world.instances)) == (2, 1)
    events = [(entry["event"], entry["at"]) for entry in world.entries]
    assert [event for event, _ in events] == ["intent", "doubt", "intent", "launched"]
    assert events[2][1] - events[1][1] >= SETTLE_S


def test_every_request_is_written_down_before_it_is_sent() -> None:
    """Killed after a repeated request: it is the last one whose machine may still come up."""
    for kill_at in range(1, 200):
        world = Lossy(1e6, num_lost=9)
        world.kill_at = kill_at
        with contextlib.suppress(Killed):
            launch(world)
        if launches(world) == 2:
            break
    assert launches(world) == 2
    seen = Fleet(world.ledger(), (), world.now + 290)
    assert [m.name for m in seen.unconfirmed()] == [NAME]
    assert list(ledger_updates(seen, "abcdef")) == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_cloud_that_puts_us_off_for_a_day_is_not_sat_out(status: int) -> None:
    put_off = Result(22, b"", b"86400", status=status)
    world = Lossy(1e6, num_lost=9, answer=put_off)
    world.post = lambda _request: put_off  # type: ignore[method-assign]
    result = launch(world)
    assert (world.now < 1060, launches(world)) == (True, 1)
    error = result.result()[0].error
    assert error is not None and "86400 s" in error.message
    assert error.exit_code == (75 if status == 429 else 69), "after a 503 nobody knows"
    assert [m.name for m in world.ledger().ours] == ([] if status == 429 else [NAME])


def test_a_key_is_not_registered_by_sleeping_a_day() -> None:
    world = World(0)
    world.post = lambda _request: Result(22, b"", b"86400", status=429)  # type: ignore[method-assign]
    step = Step("ssh-key", add_ssh_key_request(BASE, "k", "ssh-ed25519 AAAA"))
    sent = world.drive(carry_out(step))
    assert isinstance(sent.error, TryLater) and world.now < 1010


def test_a_launch_that_ends_in_doubt_says_so() -> None:
    world = Lossy(1e6, num_lost=9)
    error = launch(world).result()[0].error
    assert isinstance(error, Unreachable) and "billed" in " ".join(error.hints)
    assert len(world.instances) <= 4 and [m.name for m in world.ledger().ours] == [NAME]


def ending(world: World) -> Outcome:
    step = Step("terminate", terminate_request(BASE, f"{0:032x}"), Effect.DESTROY)
    sent = world.drive(carry_out(step))
    assert isinstance(sent, Outcome)
    return sent


@pytest.mark.parametrize("seed", range(50))
def test_a_machine_has_ended_when_it_is_no_longer_listed_whatever_was_answered(seed: int) -> None:
    world = World(seed)
    launch(world)
    world.now += 300  # it is listed by now, or terminate would not have found it
    world.storm = 0.4
    sent = ending(world)
    if sent.error is None:
        assert world.is_over(world.instances[0])
        assert world.ledger().ours == ()
    else:
        assert "billed" in " ".join(sent.error.hints)


@pytest.mark.parametrize("num_gaps", [1, 2])
def test_a_list_that_flaps_does_not_end_what_the_cloud_never_agreed_to_end(num_gaps: int) -> None:
    world = World(0)
    launch(world)
    world.now += 300
    post, get, gaps = world.post, world.get, [ok([])] * num_gaps
    lost = Result(52, b"", b"RemoteProtocolError: no answer")
    world.post = lambda request: lost if gaps else post(request)  # type: ignore[method-assign]
    world.get = lambda path: gaps.pop() if gaps else get(path)  # type: ignore[method-assign]
    assert ending(world).error is None
    assert world.is_over(world.instances[0])


def test_ending_what_is_gone_is_success() -> None:
    world = World(0)
    not_there = b'{"error": {"code": "global/object-does-not-exist", "message": "no"}}'
    world.post = lambda _request: Result(22, not_there, status=404)  # type: ignore[method-assign]
    assert ending(world).error is None


def test_a_refused_ending_says_that_the_bill_goes_on() -> None:
    world = World(0)
    launch(world)
    world.now += 30
    forbidden = b'{"error": {"code": "global/forbidden", "message": "no"}}'
    world.post = lambda _request: Result(22, forbidden, status=403)  # type: ignore[method-assign]
    error = ending(world).error
    assert isinstance(error, Unreachable) and not isinstance(error, UsageError)
    assert "billed" in " ".join(error.hints)


def test_the_fake_reads_like_the_cloud() -> None:
    world = World(0)
    launch(world)
    (row,) = world.instances
    assert isinstance(instance_of(row), CloudInstance)


def test_a_machine_that_the_list_does_not_show_yet_is_neither_gone_nor_rented_again() -> None:
    world = World(0)
    launch(world)
    early = Fleet(world.ledger(), (), world.now)
    assert list(ledger_updates(early, "abcdef")) == []
    assert [m.name for m in early.unconfirmed()] == [NAME]
    late = Fleet(world.ledger(), (), world.now + 301)
    assert [dict(record.entry)["event"] for record in ledger_updates(late, "abcdef")] == ["gone"]


def test_a_machine_that_was_listed_and_no_longer_is_has_ended_and_can_be_seen_again() -> None:
    world = World(0)
    launch(world)
    assert [m.was_listed for m in world.next_contact().ours] == [True]
    (gone,) = ledger_updates(Fleet(world.ledger(), (), world.now), "abcdef")
    world.reply(gone)
    assert world.ledger().ours == ()
    assert len(world.next_contact().ours) == 1, "the list may flap"

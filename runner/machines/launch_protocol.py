"""How requests that change something are carried out: a lost answer neither loses nor repeats anything.

Each is a generator: it yields what it wants to ask, to record and to wait for, and a test can answer
with any storm. The one rule: before such a request is sent again, its effect is looked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from runner.errors import RunnerError, TryLater, Unreachable
from runner.machines.fleet import MISS_PAUSE_S, NUM_MISSES, launched_record
from runner.machines.lambda_api import (
    ADVICE,
    CAPACITY,
    DEFINITE_REFUSALS,
    STATUS,
    WRONG_REGION,
    CloudInstance,
    bare_key,
    cloud_error,
    launched_id,
    list_instances,
    list_ssh_keys,
    list_types,
    parse_error,
    retry_after_s,
)
from runner.machines.ledger import SETTLE_S, UNANSWERED, alias_of
from runner.plan.plan import Request, Step
from runner.world.world import Account, Asking, Fact, Now, Pause, Record, Result

_NUM_SENDS = 4
_LOOK_AGAIN_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # how a machine is often late in the list
_SETTLE_PAUSES_S = _LOOK_AGAIN_S + (15.0,) * round((SETTLE_S - sum(_LOOK_AGAIN_S)) / 15.0)  # how it may be
_LONGEST_PATIENCE_S = 60.0  # a Retry-After above it is not sat out
_CAPACITY_POLL_S = 15.0
_GONE_LIMIT_S = 900.0
_NOT_SENT = 7  # curl's code for a connection that never came about


@dataclass(frozen=True)
class Outcome:
    """What came of one step."""

    step: Step
    seconds: float
    error: RunnerError | None = None

    @property
    def exit_code(self) -> int:
        """0, or the code of the error."""
        return self.error.exit_code if self.error else 0


@dataclass
class Launch:
    """One launch under way: the name that all attempts share, and whether one of them went unanswered."""

    base: str
    name: str
    digest: str
    in_doubt: bool = False
    sent: dict[int, Outcome] = field(default_factory=dict)
    instance_id: str | None = None
    account: str = ""

    def result(self) -> tuple[Outcome, ...]:
        """The attempts that were made, in order."""
        return tuple(self.sent[number] for number in sorted(self.sent))


def launch_any(attempts: tuple[Step, ...], digest: str, wait_for_capacity_s: float) -> Asking[Launch]:
    """Make the attempts until one succeeds; for `wait_for_capacity_s` repeat those with nothing free.

    An attempt that the catalogue says has nothing free is not sent (a launch can be asked for every
    12 seconds only); one that it offers may still be refused: the next one is made.
    """
    request = attempts[0].action
    assert isinstance(request, Request)
    launch = Launch(request.url.removesuffix("/instance-operations/launch"), request.json["name"], digest)
    launch.account = yield Account(launch.base)
    started: float = yield Now()
    while True:
        prices = yield from _free_now(launch.base)
        for step in attempts:
            done = yield from _try_offer(launch, step, prices)
            if done:
                yield from _look_for_twins(launch)
                return launch
        waited = (yield Now()) - started
        if waited >= wait_for_capacity_s:
            yield from _nothing_was_free(launch)
            return launch
        left = min(_CAPACITY_POLL_S, wait_for_capacity_s - waited)
        what = ", ".join(dict.fromkeys(step.offer.type for step in attempts if step.offer))
        yield Pause(
            left,
            f"no {what} is free; waiting {waited / 60:.0f} of {wait_for_capacity_s / 60:.0f} min, up to "
            f"${max(s.offer.usd_per_hour for s in attempts if s.offer):.2f}/h; nothing is billed meanwhile",
        )


def _free_now(base: str) -> Asking[dict[tuple[str, str], float] | None]:
    """(type, region) → price, of those that the catalogue offers; None when it cannot be had."""
    try:
        types = yield list_types(base)
    except RunnerError:
        return None
    return {(kind.name, region): kind.usd_per_hour for kind in types for region in kind.regions}


def _nothing_was_free(launch: Launch) -> Asking[None]:
    """If nothing was sent because nothing was free, report that once, and record it for doctor."""
    *_, last = launch.result()
    if launch.in_doubt or any(sent.seconds for sent in launch.result()):
        return
    assert last.error is not None and last.step.attempt is not None
    free = TryLater(last.error.message, *ADVICE[CAPACITY].hints)
    launch.sent[last.step.attempt] = Outcome(last.step, 0.0, free)
    yield _nothing_came(launch, last.step, CAPACITY)


def _try_offer(launch: Launch, step: Step, prices: dict[tuple[str, str], float] | None) -> Asking[bool]:
    """Make one attempt, if its offer stands; True when the launch is over, for good or ill."""
    offer, number = step.offer, step.attempt
    assert offer is not None and number is not None
    price = offer.usd_per_hour if prices is None else prices.get((offer.type, offer.region))
    if price is None:
        launch.sent[number] = Outcome(step, 0.0, TryLater(f"no {offer.type} is free in {offer.region}"))
        return False
    if price > offer.usd_per_hour:
        dearer = TryLater(f"{offer.type} now costs ${price:.2f}/h, more than the plan said")
        launch.sent[number] = Outcome(step, 0.0, dearer)
        return False
    done: bool = yield from _attempt(launch, step, number)
    return done


def _attempt(launch: Launch, step: Step, number: int) -> Asking[bool]:
    """Send one attempt; after an answer that leaves a doubt, look for our name before it is sent again."""
    assert isinstance(step.action, Request)
    seconds = 0.0
    for num_sent in range(1, _NUM_SENDS + 1):
        if launch.in_doubt and (yield from _found(launch, step, seconds, (0.0,))):
            return True
        yield _intent(launch, step)
        result: Result = yield Fact(step.action, lambda result: result)
        seconds += result.seconds
        instance_id = launched_id(result) if result.ok else None
        if instance_id:
            yield _launched(launch, step, instance_id)
            launch.sent[number] = Outcome(step, seconds)
            return True
        error = _told(step.action, result) or Unreachable("a launch was answered without an id")
        launch.sent[number] = Outcome(step, seconds, error)
        code = parse_error(result).code
        if code in DEFINITE_REFUSALS:
            yield from _record_refusal(launch, step, code or "")
            return code not in (CAPACITY, WRONG_REGION)
        is_last = num_sent == _NUM_SENDS or not _may_repeat(result)
        if (yield from _look_for_ours(launch, step, seconds, result, is_last)):
            return True
        if is_last:
            break
        patience = retry_after_s(result)
        yield Pause(2.0**num_sent if patience is None else patience + 0.1, f"{error.message}; asking again")
    if launch.in_doubt:
        launch.sent[number] = Outcome(step, seconds, _may_come_up(launch, error))
    yield from _record_refusal(launch, step, UNANSWERED)
    return True


def _intent(launch: Launch, step: Step) -> Record:
    """That money may be spent from now on; before each request, since each may be the one that is lost."""
    assert step.offer is not None
    told_of = {"alias": alias_of(launch.name), "digest": launch.digest, "account": launch.account}
    return Record.of("intent", name=launch.name, **told_of, **step.offer.document())


def _may_repeat(result: Result) -> bool:
    """Whether the same request may be answered better in a while, and the cloud does not mind being asked."""
    if (retry_after_s(result) or 0.0) > _LONGEST_PATIENCE_S:
        return False
    return result.ok or result.status is None or result.status in (409, 429) or result.status >= 500


def _told(request: Request, result: Result) -> RunnerError | None:
    """The error behind an answer; one that puts us off for long is told with its time."""
    patience = retry_after_s(result) or 0.0
    if result.ok or patience <= _LONGEST_PATIENCE_S:
        return cloud_error(request, result)
    return TryLater(f"The cloud wants not to be asked again for {patience:.0f} s", STATUS)


def _look_for_ours(launch: Launch, step: Step, seconds: float, result: Result, is_last: bool) -> Asking[bool]:
    """Look for our name after an answer that was none; True ends the launch.

    The list may be late by minutes, so a request is repeated only when its machine can no longer come up.
    """
    if result.exit_code == _NOT_SENT or result.status == 429:
        found_now: bool = yield from _found(launch, step, seconds, (0.0,))
        return found_now
    launch.in_doubt = True
    yield Record.of("doubt", name=launch.name, why=str(launch.sent[step.attempt or 0].error))
    found_late: bool = yield from _found(
        launch, step, seconds, _LOOK_AGAIN_S if is_last else _SETTLE_PAUSES_S
    )
    return found_late


def _record_refusal(launch: Launch, step: Step, code: str) -> Asking[None]:
    """Records the refusal, unless an earlier request under this name may still succeed."""
    if not launch.in_doubt:
        yield _nothing_came(launch, step, code)


def _nothing_came(launch: Launch, step: Step, code: str) -> Record:
    """That nothing was rented, and why."""
    assert step.offer is not None
    return Record.of("refused", name=launch.name, type=step.offer.type, code=code)


def _launched(launch: Launch, step: Step, instance_id: str) -> Record:
    """The id, on disk at once: a secondary request that fails must not lose it."""
    assert step.offer is not None
    launch.instance_id = instance_id
    told_of = {"alias": alias_of(launch.name), "account": launch.account}
    return Record.of("launched", id=instance_id, name=launch.name, **told_of, **step.offer.document())


def _found(launch: Launch, step: Step, seconds: float, pauses: tuple[float, ...]) -> Asking[bool]:
    """Look for our name, after each pause; True ends the launch.

    A list that cannot be had ends it too: nothing is sent blindly.
    """
    assert step.attempt is not None
    for number, pause in enumerate(pauses):
        if pause:
            yield Pause(pause, _looking(launch, sum(pauses[number:])))
        try:
            named = yield from _ours_in_list(launch)
        except RunnerError as error:
            launch.sent[step.attempt] = Outcome(step, seconds, _uncertain(launch, error))
            return True
        if named:
            yield launched_record(named[0], launch.account)
            launch.instance_id = named[0].id
            launch.sent[step.attempt] = Outcome(step, seconds)
            return True
    return False


def _looking(launch: Launch, left_s: float) -> str:
    """The line of progress while nobody knows whether a machine was rented."""
    return (
        f"no answer to the launch of {launch.name}: it may be running and be billed; looking for it in the "
        f"cloud's list for {left_s:.0f} s more (Ctrl-C is safe: action=status goes on looking)"
    )


def _ours_in_list(launch: Launch) -> Asking[list[CloudInstance]]:
    """The living machines with our name."""
    instances: tuple[CloudInstance, ...] = yield list_instances(launch.base)
    return [i for i in instances if i.name == launch.name and i.is_alive]


def _look_for_twins(launch: Launch) -> Asking[None]:
    """After a doubt, whether an earlier request has borne fruit too: both machines are then on record."""
    if not launch.in_doubt or launch.instance_id is None:
        return
    try:
        named = yield from _ours_in_list(launch)
    except RunnerError:
        return
    for machine in named:
        if machine.id != launch.instance_id:
            yield launched_record(machine, launch.account)


def _may_come_up(launch: Launch, error: RunnerError) -> RunnerError:
    """Nobody answered, and the list does not show it so far."""
    return Unreachable(
        f"{launch.name} was asked for, and was not answered for: {error.message}",
        "It may come up within five minutes, and be billed. Nothing more is rented until that is known.",
        "To see: python -m runner action=status",
    )


def _uncertain(launch: Launch, error: RunnerError) -> RunnerError:
    """Nobody knows whether money is being spent."""
    return Unreachable(
        f"{launch.name} was asked for, and the cloud's list cannot be had: {error.message}",
        "It may be running, and be billed. Nothing more is rented until that is known.",
        "To see: python -m runner action=status",
    )


# ------------------------------------------------------------------------- requests that can be repeated


def carry_out(step: Step) -> Asking[Outcome]:
    """Carry out a request that is no launch: a key is registered, a machine is ended."""
    assert isinstance(step.action, Request)
    for suffix, carry_out in _CARRIED_OUT.items():
        if step.action.url.endswith(suffix):
            sent: Outcome = yield from carry_out(step, step.action, step.action.url.removesuffix(suffix))
            return sent
    result: Result = yield Fact(step.action, lambda result: result)
    return Outcome(step, result.seconds, cloud_error(step.action, result))


def _register_key(step: Step, request: Request, base: str) -> Asking[Outcome]:
    """Make a key known; after a lost answer it is looked for by what it is, not by what it is called."""
    sent = Outcome(step, 0.0)
    for num_sent in range(1, _NUM_SENDS + 1):
        result: Result = yield Fact(request, lambda result: result)
        sent = Outcome(step, sent.seconds + result.seconds, _told(request, result))
        if sent.error is None or not _may_repeat(result):
            break
        yield Pause(retry_after_s(result) or 2.0**num_sent, f"{sent.error.message}; asking again")
        try:
            keys = yield list_ssh_keys(base)
        except RunnerError as error:
            return Outcome(step, sent.seconds, error)
        if any(
            k.name == request.json["name"] and k.public == bare_key(request.json["public_key"]) for k in keys
        ):
            return Outcome(step, sent.seconds)
    return sent


def _terminate(step: Step, request: Request, base: str) -> Asking[Outcome]:
    """End a machine: it has ended when the cloud no longer lists it, whatever it answered.

    Ending twice harms nobody, so the request is sent again while the machine is listed as alive. One list
    without it is believed when the cloud agreed to end it; else the list may have flapped.
    """
    (wanted,) = request.json["instance_ids"]
    started: float = yield Now()
    last: RunnerError | None = None
    send, is_agreed, num_misses = True, False, 0
    while True:
        if send:
            result: Result = yield Fact(request, lambda result: result)
            last = cloud_error(request, result)
            is_agreed = is_agreed or last is None
        try:
            instances: tuple[CloudInstance, ...] = yield list_instances(base)
        except RunnerError as error:
            last, state = error, "unknown"
        else:
            listed = next((i for i in instances if i.id == wanted and i.is_alive), None)
            state = listed.status if listed else "not listed"
            is_agreed = is_agreed or state == "terminating"
            num_misses = 0 if listed else num_misses + 1
        now: float = yield Now()
        if state == "not listed" and num_misses >= (1 if is_agreed else NUM_MISSES):
            yield Record.of("gone", id=wanted)
            return Outcome(step, now - started)
        send = state != "terminating" and last is not None and last.exit_code in (69, 75)
        refused = last is not None and state not in ("terminating", "unknown", "not listed") and not send
        if refused or now - started > _GONE_LIMIT_S:
            return Outcome(step, now - started, _still_there(wanted, state, last))
        yield Pause(MISS_PAUSE_S, f"the machine is {state}; it is billed until the cloud no longer lists it")


def _still_there(instance_id: str, state: str, last: RunnerError | None) -> RunnerError:
    """The machine was not seen to end."""
    said = f": {last.message}" if last else ""
    return Unreachable(
        f"{instance_id} is {state} and is still listed{said}",
        "It is billed until the cloud no longer lists it.",
        "Again: the same command; or in the cloud's console: https://cloud.lambda.ai/instances",
    )


_CARRIED_OUT: dict[str, Callable[[Step, Request, str], Asking[Outcome]]] = {
    "/ssh-keys": _register_key,
    "/instance-operations/terminate": _terminate,
}

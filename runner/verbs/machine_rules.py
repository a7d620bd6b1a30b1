"""What can be wrong with rented machines: the key, the account, the list, the address, the way by ssh."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from runner.errors import RunnerError, TryLater, UsageError
from runner.facts.cloud_errors import CAPACITY, KEYS_PAGE
from runner.facts.fact import Asking, Fact, Result
from runner.facts.lambda_cloud import Rented, SshKey, list_ssh_keys
from runner.facts.ledger import LEDGER, read_ledger
from runner.facts.probe import Cuda, ask_cuda, host_key_alias, identity_of, known_hosts
from runner.plan.command import Command, sh
from runner.plan.plan import Request
from runner.plan.route import Route
from runner.plan.settings import Settings
from runner.verbs.doctor import Diagnosis
from runner.verbs.launch import own_line
from runner.verbs.rented import Seen, alias_for, look

BILLED = "it is billed until it is terminated"
REFUSED_LATELY_S = 3600.0


@dataclass(frozen=True)
class Way:
    """How ssh fared: where its configuration leads, and its last words when it did not get there."""

    leads_to: str
    said: str | None


def of_machines(settings: Settings) -> Asking[tuple[Diagnosis, ...]]:
    """What is wrong with the machines of this checkout; the cloud is asked only if there may be any.

    Who asks about a phase's run on a machine that ssh knows and nobody here rented asks not the cloud.
    """
    asks_for_machines = settings.phase is None and not settings.instance.is_local
    if not ((settings.paths.state / LEDGER).exists() or settings.machine or asks_for_machines):
        return ()
    try:
        seen = yield from look(settings)
        keys: tuple[SshKey, ...] = yield list_ssh_keys(settings.base_url)
    except RunnerError as error:
        return (of_cloud(settings, error),)
    found = (*of_ledger(settings, seen), *of_keys(settings, keys))
    for machine in ours(settings, seen):
        found += yield from of_machine(settings, machine, keys)
    return found


def of_cloud(settings: Settings, error: RunnerError) -> Diagnosis:
    """The cloud gives no answer: the key, our haste, or the way to it."""
    if isinstance(error, UsageError):
        cause = "without a key that the cloud accepts nobody can look; machines that run go on being billed"
        remedy = f"export LAMBDA_API_KEY=…  # keys: {KEYS_PAGE}"
        return Diagnosis("the cloud refuses to answer", error.message, cause, remedy)
    cause = (
        "it limits how often it may be asked"
        if isinstance(error, TryLater)
        else "the network, or its trouble"
    )
    return Diagnosis(
        "the cloud does not answer",
        error.message,
        f"{cause}; machines that run go on being billed",
        f"{settings.program} action=status",
    )


def ours(settings: Settings, seen: Seen) -> list[Rented]:
    """The listed machines that we launched, or that `machine=` names."""
    ids = {m.id for m in seen.ledger.ours}
    wanted = settings.machine
    return [i for i in seen.alive if i.id in ids or (wanted and wanted in (i.id, i.name))]


def of_ledger(settings: Settings, seen: Seen) -> Iterator[Diagnosis]:
    """What we remember against what the cloud lists."""
    status = f"{settings.program} action=status"
    listed = {i.id for i in seen.alive}
    if seen.ledger.num_unreadable:
        what = f"{seen.ledger.num_unreadable} unreadable lines in {settings.paths.state / LEDGER}"
        cause = "a full disk, or another hand; the file is kept aside and rebuilt from the cloud's list"
        yield Diagnosis("the ledger is damaged", what, cause, status)
    for machine in seen.doubtful():
        cause = "the answer to its launch was lost, or the runner was killed; it may come up, and be billed"
        yield Diagnosis(
            "a launch is in doubt", f"{machine.name} was asked for and is not listed", cause, status
        )
    for machine in seen.ledger.ours:
        if machine.id and machine.id not in listed and seen.is_settled(machine):
            what = f"{machine.name} ({machine.id}) is not in the cloud's list"
            cause = "it was terminated elsewhere, or pre-empted; it is billed no longer"
            yield Diagnosis("a machine is gone", what, cause, status)
    refusal = read_ledger(settings.paths.state).refusal
    if refusal and seen.now - refusal[0] < REFUSED_LATELY_S:
        yield of_refusal(settings, refusal[1])


def of_refusal(settings: Settings, code: str) -> Diagnosis:
    """The last launch came to nothing."""
    again = own_line(settings, "launch", settings.machine or settings.instance.name)
    if code == CAPACITY:
        cause = "no machine of the preferred types was free in the preferred regions; nothing was rented"
        return Diagnosis("no capacity", code, cause, f"{again} wait_for_capacity=2h")
    if code == "global/quota-exceeded":
        cause = "the account may not have more machines; nothing was rented"
        return Diagnosis("the quota is reached", code, cause, f"{settings.program} action=status")
    return Diagnosis("the last launch was refused", code, "the cloud said no; nothing was rented", again)


def of_keys(settings: Settings, keys: tuple[SshKey, ...]) -> Iterator[Diagnosis]:
    """Two keys with one name: a machine launched with that name may get either."""
    for name, num in Counter(key.name for key in keys).items():
        if num > 1:
            last = [key for key in keys if key.name == name][-1]
            cause = "a launch names its key, so nobody knows which of them a machine gets"
            remedy = Request("DELETE", f"{settings.base_url}/ssh-keys/{last.id}").text
            yield Diagnosis("duplicate key names", f"{num} ssh keys are called {name}", cause, remedy)


def of_machine(
    settings: Settings, machine: Rented, keys: tuple[SshKey, ...]
) -> Asking[tuple[Diagnosis, ...]]:
    """One listed machine: its state, the way to it, its GPU."""
    name = machine.name or machine.id
    price = f"{BILLED}, ${machine.usd_per_hour:.2f}/h"
    if machine.status in ("unhealthy", "preempted"):
        end = own_line(settings, "terminate", name)
        what = f"{name} is {machine.status}"
        return (Diagnosis("the machine is of no use", what, f"it will not recover; {price}", end),)
    if machine.ip is None:
        wait = own_line(settings, "wait", name)
        return (Diagnosis("no address yet", f"{name} is {machine.status}", f"it is starting; {price}", wait),)
    alias = alias_for(settings, machine)
    config = None if settings.ssh.is_default else settings.ssh.config
    way: Way = yield from ask_way(Route(alias, config))
    wrong = of_way(settings, machine, way, keys)
    if wrong is not None or not settings.instance.cuda or machine.type.startswith("cpu_"):
        return (wrong,) if wrong else ()
    cuda: Cuda = yield ask_cuda(settings, machine)
    if cuda.works or cuda.code is None:
        return ()
    cause = f"the host's fault: on such a machine the GPU never works; {price}"
    end = own_line(settings, "terminate", name)
    return (Diagnosis(f"CUDA error {cuda.code}", f"{name}: cuInit returned {cuda.code}", cause, end),)


def ask_way(route: Route) -> Asking[Way]:
    """Where the alias leads, and whether one gets there."""
    shown = sh(*route.words, "-G", route.alias)
    leads_to: str = yield Fact(shown, read_host)
    said: str | None = yield Fact(route.ask(Command("true")), read_last_words)
    return Way(leads_to, said)


def read_host(result: Result) -> str:
    """The HostName of `ssh -G`."""
    match = re.search(r"^hostname (.*)$", result.stdout.decode(errors="replace"), re.MULTILINE)
    return match[1] if match else ""


def read_last_words(result: Result) -> str | None:
    """None when ssh got there, else everything it said, on one line."""
    said = " ".join(result.stderr.decode(errors="replace").split())
    return None if result.ok else said or f"exit code {result.exit_code}"


def of_way(settings: Settings, machine: Rented, way: Way, keys: tuple[SshKey, ...]) -> Diagnosis | None:
    """Why ssh does not get there."""
    name, alias = machine.name or machine.id, alias_for(settings, machine)
    setup = own_line(settings, "setup-ssh", name)
    if way.leads_to != machine.ip:
        what = f"ssh {alias} leads to {way.leads_to or 'nowhere'}, and the machine is at {machine.ip}"
        return Diagnosis(
            "the address changed", what, "the configuration is of another machine or time", setup
        )
    if way.said is None:
        return None
    what = f"ssh {alias}: {way.said[-300:]}"
    if re.search(r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed", way.said):
        hosts = sh("ssh-keygen", "-R", host_key_alias(machine.id), "-f", known_hosts(settings)).text
        cause = "another machine answers than the first time: reinstalled, or somebody in between"
        return Diagnosis("the host key changed", what, cause, hosts)
    if "Permission denied" in way.said:
        known = ", ".join(k.name for k in keys if k.name in machine.ssh_keys) or "none of this account's"
        cause = f"the machine was launched with the key {known}, and ssh offers {identity_of(settings)}"
        return Diagnosis("the wrong ssh key", what, cause, f"{setup} ssh.identity=FILE")
    cause = (
        "it is still starting, or was shut down inside, or a firewall rule is in the way (TCP 22); "
        f"{BILLED}, ${machine.usd_per_hour:.2f}/h"
    )
    return Diagnosis("the machine does not answer ssh", what, cause, own_line(settings, "wait", name))

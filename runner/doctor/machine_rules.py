"""What can be wrong with rented machines: the key, the account, the list, the address, the way by ssh."""

import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.doctor.job_rules import Diagnosis
from runner.errors import RunnerError, TryLater, UsageError
from runner.machines.fleet import OTHER_KEY, Fleet, alias_for, answers_to, list_fleet
from runner.machines.lambda_api import CAPACITY, KEYS_PAGE, CloudInstance, SshKey, bare_key, list_ssh_keys
from runner.machines.ledger import LEDGER, UNANSWERED, Ledger, Refusal, alias_of, read_ledger
from runner.machines.probe import (
    NOT_REACHED,
    Cuda,
    SshAnswer,
    ask_cuda,
    host_key_alias,
    is_cuda_wanted,
    known_hosts,
    read_answer,
)
from runner.plan.command import Command, Route, identity_of, sh
from runner.plan.next_command import spell_next
from runner.plan.plan import Request
from runner.plan.settings import Settings
from runner.world.world import Asking, Fact, Result

_BILLED = "it is billed until it is terminated"
_REFUSED_LATELY_S = 3600.0
_NO_USE = {
    "unhealthy": "its host failed, or somebody shut it down inside, which does not end the bill",
    "preempted": "the cloud took it back",
}
_OPEN_KEY = re.compile(r"UNPROTECTED PRIVATE KEY FILE.*?Permissions \d+ for '(.+?)' are too open")
_CHANGED_KEY = re.compile(r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed")


@dataclass(frozen=True)
class _SshCheck:
    """How ssh fared: where its configuration leads, what start-up files print, how a question ended."""

    leads_to: str
    printed: str
    answer: SshAnswer
    is_locked: bool = False  # the key has a passphrase, and no agent holds it open


def diagnose_machines(settings: Settings) -> Asking[tuple[Diagnosis, ...]]:
    """What is wrong with the machines of this checkout; the cloud is asked only if there may be any.

    The cloud is not asked about a phase's run on a machine that was not rented from here.
    """
    asks_for_machines = settings.phase is None and not settings.instance.is_local
    try:
        remembers = read_ledger(settings.paths.state) != Ledger()
    except UsageError as error:
        return (_unreadable(settings, error),)
    if not (remembers or settings.machine or asks_for_machines):
        return ()
    try:
        seen = yield from list_fleet(settings)
        keys: tuple[SshKey, ...] = yield list_ssh_keys(settings.base_url)
    except RunnerError as error:
        return (_diagnose_api(settings, error),)
    found = (*_diagnose_ledger(settings, seen), *_diagnose_keys(settings, keys))
    for machine in _ours(settings, seen):
        found += yield from _diagnose_machine(settings, machine, keys)
    return found


def _unreadable(settings: Settings, error: UsageError) -> Diagnosis:
    """The ledger is there and nobody can read it: then nothing that is rented is known."""
    file = sh(str(settings.paths.state / LEDGER)).text
    cause = f"its permissions, or the disk; {error.hints[0]}"
    return Diagnosis("the ledger cannot be read", error.message, cause, f"mv {file} {file}.aside")


def _diagnose_api(settings: Settings, error: RunnerError) -> Diagnosis:
    """The cloud gives no answer: the key, the account, our haste, or the way to it."""
    again = spell_next(settings, "status")
    billed = "machines that run go on being billed"
    if not isinstance(error, UsageError):
        haste = "it limits how often it may be asked"
        cause = haste if isinstance(error, TryLater) else "the network, or its trouble"
        return Diagnosis("the cloud does not answer", error.message, f"{cause}; {billed}", again)
    if any("LAMBDA_API_KEY" in hint for hint in error.hints):
        cause = f"without a key that the cloud accepts nobody can look; {billed}"
        remedy = f"export LAMBDA_API_KEY=…  # keys: {KEYS_PAGE}"
        return Diagnosis("the cloud refuses to answer", error.message, cause, remedy)
    cause = f"{error.hints[0].rstrip('.')}; until then nobody can look, and {billed}"
    return Diagnosis("the cloud refuses to answer", error.message, cause, again)


def _ours(settings: Settings, seen: Fleet) -> list[CloudInstance]:
    """The listed machines that we launched, or that `machine=` names."""
    ids, wanted = {m.id for m in seen.ledger.ours}, settings.machine
    return [i for i in seen.alive if (answers_to(i, wanted) if wanted else i.id in ids)]


def _diagnose_ledger(settings: Settings, seen: Fleet) -> Iterator[Diagnosis]:
    """What we remember against what the cloud lists."""
    status = spell_next(settings, "status")
    listed = {i.id for i in seen.alive}
    if seen.ledger.num_unreadable:
        what = f"{seen.ledger.num_unreadable} unreadable lines in {settings.paths.state / LEDGER}"
        cause = "a full disk, or another hand; the file is kept aside and rebuilt from the cloud's list"
        yield Diagnosis("the ledger is damaged", what, cause, status)
    for machine in seen.on_another_account():
        remedy = f"export LAMBDA_API_KEY=…  # the one that {machine.name} was launched with"
        yield Diagnosis("the key is another", f"{machine.name} is not listed", f"it was {OTHER_KEY}", remedy)
    for machine in (m for m in seen.unconfirmed() if m not in seen.on_another_account()):
        cause = "the answer to its launch was lost, or the runner was killed; it may come up, and be billed"
        yield Diagnosis(
            "a launch is in doubt", f"{machine.name} was asked for and is not listed", cause, status
        )
    for machine in seen.ledger.ours:
        if machine.id and machine.id not in listed and seen.is_settled(machine):
            what = f"{machine.name} ({machine.id}) is not in the cloud's list"
            cause = "it was terminated elsewhere, or pre-empted; it is billed no longer"
            yield Diagnosis("a machine is gone", what, cause, status)
    refusal = seen.ledger.refusal
    if refusal and seen.now - refusal.at < _REFUSED_LATELY_S:
        yield _diagnose_refusal(settings, refusal)


def _diagnose_refusal(settings: Settings, refusal: Refusal) -> Diagnosis:
    """The last launch came to nothing."""
    what = f"{refusal.name} ({refusal.type}): {refusal.code}"
    again = _launch_line(settings, refusal)
    if refusal.code == CAPACITY:
        cause = "no machine of the preferred types was free in the preferred regions; nothing was rented"
        return Diagnosis("no capacity", what, cause, _launch_line(settings, refusal, "wait_for_capacity=2h"))
    if refusal.code == "global/quota-exceeded":
        cause = "the account may not have more machines at a time; nothing was rented"
        return Diagnosis("the quota is reached", what, cause, spell_next(settings, "status"))
    if refusal.code == UNANSWERED:
        cause = "the cloud could not be reached, or limits how often it may be asked; nothing was rented"
        return Diagnosis("the last launch was not answered", what, cause, again)
    return Diagnosis("the last launch was refused", what, "the cloud said no; nothing was rented", again)


def _launch_line(settings: Settings, refusal: Refusal, *more: str) -> str:
    """The launch again; where no instance was typed now, the one that is called like the type."""
    alias = alias_of(refusal.name)
    known = {f.stem for folder in settings.paths.conf for f in (folder / "instance").glob("*.yaml")}
    if settings.instance.is_local:
        if refusal.type not in known:
            return spell_next(settings, "available")
        more = (f"instance={refusal.type}", *more)
    return spell_next(settings, "launch", *more, machine=alias)


def _diagnose_keys(settings: Settings, keys: tuple[SshKey, ...]) -> Iterator[Diagnosis]:
    """Two keys with one name: a machine launched with that name may get either."""
    own = _own_publics(settings)
    for name, num in Counter(key.name for key in keys).items():
        if num > 1:
            named = [key for key in keys if key.name == name]
            last = ([key for key in named if key.public not in own] or named)[-1]
            cause = "a launch names its key, so nobody knows which of them a machine gets"
            remedy = Request("DELETE", f"{settings.base_url}/ssh-keys/{last.id}").text
            yield Diagnosis("duplicate key names", f"{num} ssh keys are called {name}", cause, remedy)


def _own_publics(settings: Settings) -> dict[str, Path]:
    """The public keys whose private halves are here → the private half; the one that ssh offers first."""
    offered = identity_of(settings)
    found = sorted(Path.home().glob(".ssh/*.pub"))
    pairs = [(p.with_suffix(""), p) for p in found]
    if offered:
        pairs.insert(0, (offered, Path(f"{offered}.pub")))
    publics: dict[str, Path] = {}
    for private, public in pairs:
        if private.is_file() and public.is_file():
            publics.setdefault(bare_key(public.read_text(errors="replace")), private)
    return publics


def _diagnose_machine(
    settings: Settings, machine: CloudInstance, keys: tuple[SshKey, ...]
) -> Asking[tuple[Diagnosis, ...]]:
    """One listed machine: its state, the way to it, its GPU."""
    name = machine.name or machine.id
    price = f"{_BILLED}, ${machine.usd_per_hour:.2f}/h"
    if machine.status == "terminating":
        return ()
    if machine.status in _NO_USE:
        end = spell_next(settings, "terminate", machine=name)
        cause = f"{_NO_USE[machine.status]}; {price}"
        return (Diagnosis("the machine is of no use", f"{name} is {machine.status}", cause, end),)
    if machine.ip is None:
        wait = spell_next(settings, "wait", machine=name)
        return (Diagnosis("no address yet", f"{name} is {machine.status}", f"it is starting; {price}", wait),)
    alias = alias_for(settings, machine)
    config = None if settings.ssh.is_default else settings.ssh.config
    way: _SshCheck = yield from _ask_way(Route(alias, config), identity_of(settings))
    wrong = _diagnose_ssh(settings, machine, way, keys)
    found = tuple(one for one in (wrong, _diagnose_talk(alias, way)) if one)
    if wrong is not None or not is_cuda_wanted(settings, machine):
        return found
    cuda: Cuda | None = yield ask_cuda(settings, machine)
    if cuda is None or cuda.works or cuda.code is None:
        return found
    cause = f"the host's fault: on such a machine the GPU never works; {price}"
    end = spell_next(settings, "terminate", machine=name)
    return (*found, Diagnosis(f"CUDA error {cuda.code}", f"{name}: cuInit returned {cuda.code}", cause, end))


def _ask_way(route: Route, key: Path | None) -> Asking[_SshCheck]:
    """Where the alias leads, whether one gets there, and whether what is asked there is answered."""
    shown = sh(*route.words, "-G", route.alias)
    leads_to: str = yield Fact(shown, _read_host)
    bare: Result = yield Fact(route.ask(Command("true")), lambda result: result)
    if bare.exit_code == NOT_REACHED:
        is_locked = False
        if key and b"Permission denied" in bare.stderr and _has_passphrase(key):
            is_locked = not (yield Fact(sh("ssh-add", "-L"), lambda result: _holds(result, key)))
        return _SshCheck(leads_to, "", read_answer(bare), is_locked)
    answer: SshAnswer = yield Fact(route.question(".", "reach"), read_answer)
    return _SshCheck(leads_to, " ".join(bare.stdout.decode(errors="replace").split()), answer)


def _holds(result: Result, key: Path) -> bool:
    """Whether the agent has this key; there may be none."""
    public = Path(f"{key}.pub")
    if not result.ok or not public.is_file():
        return result.ok
    known = map(bare_key, result.stdout.decode(errors="replace").splitlines())
    return bare_key(public.read_text(errors="replace")) in known


def _read_host(result: Result) -> str:
    """The HostName of `ssh -G`."""
    match = re.search(r"^hostname (.*)$", result.stdout.decode(errors="replace"), re.MULTILINE)
    return match[1] if match else ""


def _diagnose_ssh(
    settings: Settings, machine: CloudInstance, way: _SshCheck, keys: tuple[SshKey, ...]
) -> Diagnosis | None:
    """Why ssh does not get there."""
    name, alias = machine.name or machine.id, alias_for(settings, machine)
    if way.leads_to != machine.ip:
        return _diagnose_address(settings, machine, way, spell_next(settings, "setup-ssh", machine=name))
    said = way.answer.said
    if way.answer.answered:
        return None
    if (known := diagnose_no_answer(alias, way.answer)) is not None:
        return known
    what = f"ssh {alias}: {said[-300:]}"
    if _CHANGED_KEY.search(said):
        forget = sh("ssh-keygen", "-R", host_key_alias(machine.id), "-f", known_hosts(settings)).text
        cause = "another machine answers than the first time: reinstalled, or somebody in between"
        return Diagnosis("the host key changed", what, cause, forget)
    if opened := _OPEN_KEY.search(said):
        return _diagnose_open_key(what, opened[1])
    if "Permission denied" in said:
        if way.is_locked and _is_let_in(settings, machine, keys):
            return _diagnose_locked_key(settings, what)
        return _diagnose_wrong_key(settings, machine, what, keys)
    cause = (
        "it is still starting, or was shut down inside, or a firewall rule is in the way (TCP 22); "
        f"{_BILLED}, ${machine.usd_per_hour:.2f}/h"
    )
    return Diagnosis(
        "the machine does not answer ssh", what, cause, spell_next(settings, "wait", machine=name)
    )


def _diagnose_address(settings: Settings, machine: CloudInstance, way: _SshCheck, setup: str) -> Diagnosis:
    """The configuration leads elsewhere, or nowhere: then it only says the alias again."""
    alias = alias_for(settings, machine)
    there = f"and {machine.name or machine.id} is at {machine.ip}"
    if way.leads_to in ("", alias.lower(), alias):
        cause = "setup-ssh was not done on this computer, or its block is gone from the configuration"
        return Diagnosis("ssh does not know the machine", f"ssh {alias} leads nowhere, {there}", cause, setup)
    cause = "the configuration is of another machine or time"
    what = f"ssh {alias} leads to {way.leads_to}, {there}"
    return Diagnosis("the address changed", what, cause, setup)


def _diagnose_open_key(what: str, file: str) -> Diagnosis:
    """ssh does not use a private key that others may read."""
    cause = "ssh does not use a private key that others on this computer may read"
    return Diagnosis("the ssh key may be read by others", what, cause, sh("chmod", "600", file).text)


def _diagnose_locked_key(settings: Settings, what: str) -> Diagnosis:
    """The right key, which nobody is there to open."""
    key = identity_of(settings)
    cause = f"{key} has a passphrase and no agent holds it open, and nobody is asked for it by a program"
    remedy = f'[ -n "$SSH_AUTH_SOCK" ] || eval "$(ssh-agent)"; {sh("ssh-add", str(key)).text}'
    return Diagnosis("the ssh key has a passphrase", what, cause, remedy)


def _is_let_in(settings: Settings, machine: CloudInstance, keys: tuple[SshKey, ...]) -> bool:
    """Whether the machine was launched with the key that ssh offers, as far as anybody knows."""
    theirs = [key.public for key in keys if key.name in machine.ssh_keys]
    offered = Path(f"{identity_of(settings)}.pub")
    return not theirs or (offered.is_file() and bare_key(offered.read_text(errors="replace")) in theirs)


def _has_passphrase(key: Path) -> bool:
    """Whether a private key is encrypted, in OpenSSH's form or in PEM's."""
    try:
        text = key.read_text(errors="replace")
    except OSError:
        return False
    head, _, rest = text.partition("-----\n")
    if "OPENSSH" not in head:
        return "ENCRYPTED" in text
    try:
        body = b64decode("".join(rest.partition("-----")[0].split()))
    except ValueError:
        return False
    return not body.startswith(b"openssh-key-v1\0\0\0\0\4none")


def _diagnose_wrong_key(
    settings: Settings, machine: CloudInstance, what: str, keys: tuple[SshKey, ...]
) -> Diagnosis:
    """The machine lets in another key than ssh offers; the right one may lie beside it."""
    name, offered = machine.name or machine.id, identity_of(settings)
    theirs = [key for key in keys if key.name in machine.ssh_keys]
    known = ", ".join(machine.ssh_keys) or "none"
    cause = f"the machine was launched with the key {known}, and ssh offers {offered}"
    own = _own_publics(settings)
    right = next((own[key.public] for key in theirs if key.public in own), None)
    if right is not None:
        setup = spell_next(settings, "setup-ssh", f"ssh.identity={right}", machine=name)
        return Diagnosis("the wrong ssh key", what, f"{cause}; it should be {right}", setup)
    cause += f"; nobody here has it, so it has to be ended where it is, or here; {_BILLED}"
    return Diagnosis("the wrong ssh key", what, cause, spell_next(settings, "terminate", machine=name))


# --------------------------------------------------------- a machine that answers, but not to what is asked


@dataclass(frozen=True)
class _Rule:
    """What stands between us and an answer. `remedy` is a line for a shell here, with `{alias}` in it."""

    symptom: str
    is_shown_by: Callable[[SshAnswer], bool]
    cause: str
    remedy: str


def _says(pattern: str) -> Callable[[SshAnswer], bool]:
    """Shown by these words, whoever said them."""
    return lambda answer: re.search(pattern, answer.said) is not None


def _has_left(answer: SshAnswer) -> bool:
    """Whether a shell ended before it came to the question; 69 stands for an exit code of 0."""
    return answer.is_reached and answer.exit_code in (0, 1, 69)


_CLEAN = "case $- in *i*) ;; *) return;; esac"
_CLEAN_FIRST = (
    f"put `{_CLEAN}` at the top of ~/.bashrc there (zsh: `[[ -o interactive ]] || return`, ~/.zshrc)"
)
_RULES = (
    _Rule(
        "RemoteCommand is in the way",
        _says("Cannot execute command-line and remote command"),
        "the ssh configuration has one for this host: put `RemoteCommand none` above it, in its block",
        "ssh -G {alias} | grep -i '^remotecommand'",
    ),
    _Rule(
        "the machine's disk is full",
        _says("No space left on device|Disk quota exceeded"),
        "nothing can be written there, not even what a shell needs to begin",
        "ssh {alias} 'df -h ~ /tmp; du -xh --max-depth=2 ~ | sort -h | tail -n 20'",
    ),
    _Rule(
        "the login shell is not a POSIX shell",
        _says(
            r"fish: |Illegal variable name|Badly placed|csh: |nu::|xonsh|currently not available|git-shell"
        ),
        "what is asked is read by the login shell of the machine: make it `/bin/bash`",
        "ssh -t {alias} chsh -s /bin/bash",
    ),
    _Rule(
        "python3 is missing on the machine",
        lambda answer: answer.is_reached and (answer.exit_code == 127 or "python3: C" in answer.said),
        "every question is answered by python3, which the machine's shell does not find",
        "ssh {alias} 'sudo apt-get update && sudo apt-get install -y python3'",
    ),
    _Rule(
        "a start-up file on the machine ends the shell",
        _has_left,
        f"it leaves before what is asked is run: {_CLEAN_FIRST}",
        f"ssh {{alias}}  # and there: sed -i '1i {_CLEAN}' ~/.bashrc",
    ),
    _Rule(
        "the machine answers, but not to what it is asked",
        lambda answer: answer.is_reached,
        "its own words say why; nothing there was seen, so nothing is known of it",
        "ssh {alias} python3 --version",
    ),
)


def diagnose_no_answer(alias: str, answer: SshAnswer) -> Diagnosis | None:
    """Why what was asked is not answered; None where the machine is not reached at all."""
    rule = next((rule for rule in _RULES if rule.is_shown_by(answer)), None)
    if rule is None:
        return None
    remedy = rule.remedy.replace("{alias}", sh(alias).text)
    return Diagnosis(rule.symptom, f"ssh {alias}: {answer.said[-300:]}", rule.cause, remedy)


def _diagnose_talk(alias: str, way: _SshCheck) -> Diagnosis | None:
    """A shell that prints where nobody reads: our answers have marks of their own, rsync's have not."""
    if not way.printed:
        return None
    return Diagnosis(
        "a start-up file on the machine prints",
        f"ssh {alias} true: {way.printed[-300:]}",
        f"rsync takes it for an answer (protocol version mismatch): {_CLEAN_FIRST}",
        f"ssh {sh(alias).text}  # and there: sed -i '1i {_CLEAN}' ~/.bashrc",
    )

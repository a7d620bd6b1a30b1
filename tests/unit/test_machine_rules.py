"""doctor on machines: each trouble from the facts that show it, told with its cause and what to type."""

import json
import shlex
import subprocess
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runner.config.freeze import load
from runner.doctor.job_rules import Diagnosis
from runner.doctor.machine_rules import diagnose_machines
from runner.errors import RunnerError, UsageError
from runner.plan.plan import Request
from runner.plan.settings import Settings
from runner.verbs import rule_for
from runner.world.live import drive
from runner.world.world import Account, Fact, Now, Pause, Result
from tests.support import framed

NAME, ID, IP = "lambda-0001-abcdef", "1" * 32, "203.0.113.9"
HERE, ELSEWHERE = "ssh-ed25519 AAAAhere", "ssh-ed25519 AAAAelsewhere"
NOW = 10_000.0
CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key verification failed.
"""


def machine(**values: Any) -> dict[str, Any]:
    """A row of the cloud's list."""
    row = {
        "id": ID,
        "name": NAME,
        "status": "active",
        "ip": IP,
        "ssh_key_names": ["mine"],
        "region": {"name": "us-east-1"},
        "instance_type": {"name": "gpu_1x_a10", "price_cents_per_hour": 129},
    }
    return row | values


def entry(event: str, at: float, **values: Any) -> dict[str, Any]:
    """A line of the ledger."""
    return {"event": event, "at": at, "name": NAME, "type": "gpu_1x_a10", **values}


@dataclass
class World:
    """What cloud, ssh and disk say to the doctor; by default all is well with one machine of ours."""

    home: Path
    instances: list[dict[str, Any]] = field(default_factory=lambda: [machine()])
    keys: list[dict[str, str]] = field(
        default_factory=lambda: [{"id": "k1", "name": "mine", "public_key": f"{HERE} me@here"}]
    )
    entries: list[dict[str, Any]] = field(
        default_factory=lambda: [entry("launched", NOW - 900, id=ID), entry("seen", NOW - 800, id=ID)]
    )
    leads_to: str = IP
    said: str | None = None
    printed: bytes = b""
    reach: Result = field(default_factory=lambda: Result(0, framed({"reached": True})))
    cuda: int = 0
    agent: str | None = None
    account: str = ""
    error: RunnerError | Result | None = None

    def settings(self, *words: str) -> Settings:
        """As typed in the home folder."""
        state = self.home / ".runner"
        state.mkdir(exist_ok=True)
        lines = "".join(json.dumps(one) + "\n" for one in self.entries)
        (state / "ledger.jsonl").write_text(lines)
        settings = loaded("action=doctor", *words)
        return replace(settings, paths=replace(settings.paths, state=state, cwd=self.home))

    def diagnoses(self, *words: str) -> tuple[Diagnosis, ...]:
        """All that is found; each remedy is something that can be typed."""
        found: tuple[Diagnosis, ...] = drive(diagnose_machines(self.settings(*words)), self.reply)
        for diagnosis in found:
            check_remedy(diagnosis.remedy)
        return found

    def only(self, *words: str) -> Diagnosis:
        """The one thing that is wrong."""
        (diagnosis,) = self.diagnoses(*words)
        return diagnosis

    def reply(self, question: Any) -> Any:
        if isinstance(question, Now):
            return NOW
        if isinstance(question, Account):
            return self.account
        if isinstance(question, Pause):
            return None
        assert isinstance(question, Fact)
        if isinstance(question.ask, Request):
            return question.read(self.http(question.ask))
        return question.read(self.shell(question.ask.text))

    def http(self, request: Request) -> Result:
        if isinstance(self.error, Result):
            return self.error
        if self.error:
            raise self.error
        data = self.keys if request.url.endswith("/ssh-keys") else self.instances
        return Result(0, json.dumps({"data": data}).encode(), status=200)

    def shell(self, text: str) -> Result:
        if " -G " in text:
            return Result(0, f"user ubuntu\nhostname {self.leads_to}\nport 22\n".encode())
        if text.endswith(" -- cuda"):
            return Result(0, framed({"cuda": self.cuda, "said": ""}))
        if text.endswith(" -- reach"):
            return self.reach
        if text == "ssh-add -L":
            return Result(0, self.agent.encode()) if self.agent is not None else Result(2)
        assert text.endswith(" true")
        return Result(0, self.printed) if self.said is None else Result(255, b"", self.said.encode())


@cache
def loaded(*words: str) -> Settings:
    """What the runner makes of a command line; composed once for all tests."""
    return load(list(words), Path("/"))


def check_remedy(remedy: str) -> None:
    """It parses as shell; a line of the runner is one that the runner takes."""
    assert subprocess.run(["bash", "-n", "-c", remedy]).returncode == 0
    words = shlex.split(remedy, comments=True)
    if words[:3] == ["python", "-m", "runner"]:
        settings = loaded(*words[3:])
        rule_for(settings)
        assert settings.action not in ("launch", "up") or not settings.instance.is_local
    else:
        assert words[0] in ("export", "curl", "ssh", "ssh-keygen", "chmod", "[")


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """One machine of ours, reached by the one key of this home."""
    monkeypatch.setenv("HOME", str(home))
    add_key(home, "id_ed25519", HERE)
    return World(home)


def add_key(home: Path, name: str, public: str) -> Path:
    """A key pair; its private half is only there."""
    (home / ".ssh").mkdir(exist_ok=True)
    (home / f".ssh/{name}").write_text("private\n")
    (home / f".ssh/{name}.pub").write_text(f"{public} me@here\n")
    return home / ".ssh" / name


def verbs(diagnosis: Diagnosis) -> list[str]:
    return shlex.split(diagnosis.remedy, comments=True)


def test_a_machine_that_is_well_has_no_symptoms(world: World) -> None:
    assert world.diagnoses() == ()
    assert world.diagnoses("instance=gpu_1x_a10") == ()


def test_the_cloud_is_not_asked_where_nothing_was_rented(world: World) -> None:
    settings = world.settings("phase=phase12")
    (settings.paths.state / "ledger.jsonl").unlink()
    assert list(diagnose_machines(settings)) == []


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (UsageError("LAMBDA_API_KEY is not set", "export LAMBDA_API_KEY=…"), "key", "export LAMBDA_API_KEY"),
        ((401, "global/invalid-api-key"), "key", "export LAMBDA_API_KEY"),
        ((403, "global/account-inactive"), "payment method", "action=status"),
        ((403, "global/forbidden"), "administrator", "action=status"),
        ((404, "global/not-found"), "cloud.base_url", "action=status"),
    ],
)
def test_a_refusal_of_the_cloud_is_told_by_what_is_refused(
    world: World, error: Any, cause: str, remedy: str
) -> None:
    world.error = error if isinstance(error, UsageError) else refusal(*error)
    diagnosis = world.only()
    assert diagnosis.symptom == "the cloud refuses to answer"
    assert cause in diagnosis.cause and "billed" in diagnosis.cause and remedy in diagnosis.remedy


def refusal(status: int, code: str) -> Result:
    return Result(22, json.dumps({"error": {"code": code, "message": "No."}}).encode(), status=status)


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (Result(22, b"error code: 1015", status=429), "limits how often"),
        (Result(22, b"<html>", status=502), "network"),
        (Result(7, b"", b"ConnectError"), "network"),
    ],
)
def test_a_cloud_that_gives_no_answer_says_that_money_is_spent_all_the_same(
    world: World, result: Result, cause: str
) -> None:
    world.error = result
    diagnosis = world.only()
    assert diagnosis.symptom == "the cloud does not answer"
    assert cause in diagnosis.cause and "billed" in diagnosis.cause


def test_a_changed_host_key_is_forgotten_under_the_machine_s_own_name(world: World) -> None:
    world.said = CHANGED
    diagnosis = world.only()
    assert diagnosis.symptom == "the host key changed"
    known_hosts = str(world.home / ".runner/known_hosts")
    assert verbs(diagnosis) == ["ssh-keygen", "-R", f"fractal-{ID}", "-f", known_hosts]


def test_a_wrong_key_is_told_with_the_right_one_when_it_is_here(world: World) -> None:
    right = add_key(world.home, "work", ELSEWHERE)
    world.keys = [{"id": "k1", "name": "mine", "public_key": f"{ELSEWHERE} me@work"}]
    world.said = "ubuntu@203.0.113.9: Permission denied (publickey)."
    diagnosis = world.only("ssh.identity=/other/id")
    assert diagnosis.symptom == "the wrong ssh key"
    assert "Permission denied" in diagnosis.evidence and "mine" in diagnosis.cause
    assert {"action=setup-ssh", f"machine={NAME}", f"ssh.identity={right}"} <= set(verbs(diagnosis))
    assert sum(word.startswith("ssh.identity=") for word in verbs(diagnosis)) == 1


def test_a_key_that_nobody_here_has_leaves_only_the_end_and_says_what_it_costs(world: World) -> None:
    world.keys[0]["public_key"] = ELSEWHERE
    world.said = "Permission denied (publickey)."
    diagnosis = world.only()
    assert "action=terminate" in verbs(diagnosis) and "billed" in diagnosis.cause


DENIED = "ubuntu@203.0.113.9: Permission denied (publickey)."


def test_a_key_file_that_others_may_read_is_closed(world: World) -> None:
    world.said = (
        "@@@@@@@@@@@@@@@@@@@@@@@@@@@\n@   WARNING: UNPROTECTED PRIVATE KEY FILE!    @\n@@@@@@@@@@@@@@@@@@\n"
        "Permissions 0644 for '/home/me/my keys/id' are too open.\n"
        f"It is required that your private key files are NOT accessible by others.\n{DENIED}"
    )
    diagnosis = world.only()
    assert diagnosis.symptom == "the ssh key may be read by others"
    assert verbs(diagnosis) == ["chmod", "600", "/home/me/my keys/id"]


def key_with(tmp_path: Path, passphrase: str, *form: str) -> Path:
    """A key pair that ssh-keygen made."""
    key = tmp_path / "a key"
    words = ("ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", passphrase, *form, "-f", key)
    subprocess.run(words, check=True)
    return key


@pytest.mark.parametrize("form", [(), ("-m", "PEM"), ("-m", "PKCS8")])
@pytest.mark.parametrize("agent", [None, ELSEWHERE])
def test_a_key_with_a_passphrase_that_no_agent_holds_is_opened(
    world: World, tmp_path: Path, form: tuple[str, ...], agent: str | None
) -> None:
    key = key_with(tmp_path, "secret", *form)
    world.keys[0]["public_key"] = Path(f"{key}.pub").read_text()
    world.said, world.agent = DENIED, agent
    diagnosis = world.only(f"ssh.identity={key}")
    assert diagnosis.symptom == "the ssh key has a passphrase"
    assert verbs(diagnosis)[-2:] == ["ssh-add", str(key)]


@pytest.mark.parametrize(("passphrase", "is_held"), [("", False), ("secret", True)])
def test_a_key_that_is_open_and_refused_is_the_wrong_one(
    world: World, tmp_path: Path, passphrase: str, is_held: bool
) -> None:
    key = key_with(tmp_path, passphrase)
    world.agent = Path(f"{key}.pub").read_text() if is_held else None
    world.said = DENIED
    assert world.only(f"ssh.identity={key}").symptom == "the wrong ssh key"


def test_a_key_with_a_passphrase_that_the_machine_does_not_know_is_the_wrong_one(
    world: World, tmp_path: Path
) -> None:
    world.said = DENIED
    assert world.only(f"ssh.identity={key_with(tmp_path, 'secret')}").symptom == "the wrong ssh key"


def test_an_address_that_changed_is_set_up_again(world: World) -> None:
    world.leads_to = "198.51.100.7"
    diagnosis = world.only()
    assert diagnosis.symptom == "the address changed"
    assert "198.51.100.7" in diagnosis.evidence and IP in diagnosis.evidence
    assert {"action=setup-ssh", f"machine={NAME}"} <= set(verbs(diagnosis))


def test_an_alias_that_leads_to_itself_was_never_set_up(world: World) -> None:
    world.leads_to = "lambda"
    diagnosis = world.only()
    assert diagnosis.symptom == "ssh does not know the machine"
    assert "action=setup-ssh" in verbs(diagnosis)


def test_a_machine_that_is_silent_may_be_shut_down_inside_and_is_billed(world: World) -> None:
    world.said = "ssh: connect to host 203.0.113.9 port 22: Connection timed out"
    diagnosis = world.only()
    assert diagnosis.symptom == "the machine does not answer ssh"
    assert "shut down inside" in diagnosis.cause and "$1.29/h" in diagnosis.cause
    assert "action=wait" in verbs(diagnosis)


def no_answer(exit_code: int, said: str, complaint: str = "") -> Result:
    """How a question ends that something answered, but not to what was asked."""
    told = f"{complaint}\nno answer to what was asked (exit code {exit_code % 69}); it says: {said}\n"
    return Result(exit_code, b"", told.encode())


@pytest.mark.parametrize(
    ("reach", "symptom", "cause"),
    [
        (no_answer(69, "nothing at all"), "ends the shell", "case $- in"),
        (no_answer(1, "Welcome!"), "ends the shell", "~/.bashrc"),
        (no_answer(127, "nothing at all", "bash: python3: command not found"), "python3", "python3"),
        (no_answer(1, "nothing at all", "python3: Command not found."), "python3", "python3"),
        (no_answer(126, "nothing at all", "fish: Unknown command: python3"), "POSIX", "/bin/bash"),
        (no_answer(1, "This account is currently not available."), "POSIX", "/bin/bash"),
        (no_answer(1, "x", "cannot create temp file: No space left on device"), "disk is full", "written"),
        (no_answer(42, "Killed"), "not to what it is asked", "nothing there was seen"),
    ],
)
def test_a_machine_that_does_not_answer_to_what_it_is_asked_is_told_by_its_words(
    world: World, reach: Result, symptom: str, cause: str
) -> None:
    world.reach = reach
    diagnosis = world.only()
    assert symptom in diagnosis.symptom and cause in diagnosis.cause
    assert "it says" in diagnosis.evidence and verbs(diagnosis)[0] == "ssh"


def test_a_remote_command_of_the_person_is_named_with_the_line_that_takes_it_away(world: World) -> None:
    world.said = "Cannot execute command-line and remote command."
    diagnosis = world.only()
    assert "RemoteCommand" in diagnosis.symptom and "RemoteCommand none" in diagnosis.cause


def test_a_start_up_file_that_prints_is_told_though_all_that_is_asked_is_answered(world: World) -> None:
    world.printed = b"Welcome to\nmy machine\n"
    diagnosis = world.only()
    assert "prints" in diagnosis.symptom and "Welcome to my machine" in diagnosis.evidence
    assert "protocol version mismatch" in diagnosis.cause and "case $- in" in diagnosis.cause


@pytest.mark.parametrize(
    ("status", "cause"), [("unhealthy", "shut it down inside"), ("preempted", "took it back")]
)
def test_a_machine_that_will_not_recover_is_billed_until_it_is_terminated(
    world: World, status: str, cause: str
) -> None:
    world.instances = [machine(status=status, ip=None)]
    diagnosis = world.only()
    assert diagnosis.symptom == "the machine is of no use"
    assert cause in diagnosis.cause and "billed until it is terminated" in diagnosis.cause
    assert {"action=terminate", f"machine={NAME}"} <= set(verbs(diagnosis))


def test_a_machine_that_is_gone_is_billed_no_longer(world: World) -> None:
    world.instances = []
    diagnosis = world.only()
    assert diagnosis.symptom == "a machine is gone"
    assert ID in diagnosis.evidence and "billed no longer" in diagnosis.cause


def test_a_machine_of_another_key_is_not_taken_for_gone(world: World) -> None:
    world.entries, world.instances, world.account = (
        [entry("launched", NOW - 900, id=ID, account="a")],
        [],
        "b",
    )
    diagnosis = world.only()
    assert diagnosis.symptom == "the key is another" and "may be running, and be billed" in diagnosis.cause


def test_a_machine_that_is_being_ended_is_no_trouble(world: World) -> None:
    world.instances = [machine(status="terminating")]
    assert world.diagnoses() == ()


def test_a_machine_that_boots_is_waited_for(world: World) -> None:
    world.instances = [machine(status="booting", ip=None)]
    diagnosis = world.only()
    assert diagnosis.symptom == "no address yet" and "action=wait" in verbs(diagnosis)


def test_a_launch_that_was_not_answered_and_is_not_listed_is_in_doubt(world: World) -> None:
    world.entries, world.instances = [entry("intent", NOW - 60)], []
    diagnosis = world.only()
    assert diagnosis.symptom == "a launch is in doubt" and "may come up" in diagnosis.cause


@pytest.mark.parametrize("words", [(), ("instance=gpu_1x_a10",)])
def test_a_gpu_that_never_computes_is_found_whatever_instance_was_typed(
    world: World, words: tuple[str, ...]
) -> None:
    world.cuda = 802
    diagnosis = world.only(*words)
    assert diagnosis.symptom == "CUDA error 802"
    assert "cuInit returned 802" in diagnosis.evidence and "$1.29/h" in diagnosis.cause
    assert "action=terminate" in verbs(diagnosis)


def test_two_keys_of_one_name_the_one_that_is_not_ours_can_go(world: World) -> None:
    world.keys.insert(0, {"id": "k0", "name": "mine", "public_key": ELSEWHERE})
    diagnosis = world.only()
    assert diagnosis.symptom == "duplicate key names"
    assert "2 ssh keys are called mine" in diagnosis.evidence
    assert diagnosis.remedy.endswith("/ssh-keys/k0") and "-X DELETE" in diagnosis.remedy


REFUSALS = {
    "instance-operations/launch/insufficient-capacity": ("no capacity", "wait_for_capacity=2h"),
    "global/quota-exceeded": ("the quota is reached", "action=status"),
    "global/invalid-address": ("the last launch was refused", "action=launch"),
    "unanswered": ("the last launch was not answered", "action=launch"),
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("words", [(), ("instance=gpu_1x_a10",), ("instance=gpu_8x_a100", "budget_usd=9")])
def test_a_refused_launch_is_remembered_for_an_hour(world: World, code: str, words: tuple[str, ...]) -> None:
    world.entries, world.instances = [entry("refused", NOW - 60, code=code)], []
    diagnosis = world.only(*words)
    symptom, remedy = REFUSALS[code]
    assert (diagnosis.symptom, remedy in verbs(diagnosis)) == (symptom, True)
    assert "gpu_1x_a10" in diagnosis.evidence and "nothing was rented" in diagnosis.cause
    world.entries[0]["at"] = NOW - 4000
    assert world.diagnoses(*words) == ()


def test_a_refused_type_that_no_instance_is_called_like_is_looked_for(world: World) -> None:
    code = next(iter(REFUSALS))
    world.entries, world.instances = [entry("refused", NOW - 60, code=code, type="gpu_9x")], []
    assert "action=available" in verbs(world.only())


def test_a_damaged_ledger_is_said_aloud(world: World) -> None:
    settings = world.settings()
    with (settings.paths.state / "ledger.jsonl").open("a") as file:
        file.write("garbage\n")
    world.settings = lambda *_words: settings  # type: ignore[method-assign]
    diagnosis = world.only()
    assert diagnosis.symptom == "the ledger is damaged" and "kept aside" in diagnosis.cause


def test_of_several_machines_the_named_one_is_looked_at(world: World) -> None:
    other = machine(id="2" * 32, name="theirs", status="unhealthy")
    world.instances.append(other)
    assert world.diagnoses() == (), "a stranger's machine is not ours to end"
    assert world.only("machine=theirs").symptom == "the machine is of no use"
    assert world.diagnoses("machine=lambda") == ()

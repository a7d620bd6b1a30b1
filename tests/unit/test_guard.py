"""The guard of terminate: what it takes for lost, for alive, for unseen; and what `discard` gives up."""

import hashlib
import io
import json
import os
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from runner.config.freeze import load
from runner.consent import show_or_apply
from runner.errors import Refused, UsageError
from runner.machines.fleet import Fleet, find_machine
from runner.machines.guard import Declared, Guard, check_loss, rescue_lines
from runner.machines.lambda_api import CloudInstance, terminate_request
from runner.machines.ledger import Ledger, fold
from runner.machines.probe import HeldRun, HomeEntry, MachineContents, RemoteFile
from runner.machines.ssh_config import removal_step
from runner.machines.terminate import observed, recheck
from runner.plan.plan import Effect, Plan, Request, Step, Target, WriteFile
from runner.plan.settings import Settings
from runner.research_log.runs import RunState, RunStatus
from runner.view.text import Paint
from runner.world.live import Live, drive
from runner.world.screen import Screen
from runner.world.world import Account, Fact, Now, Result

NAME, ID, IP = "lambda-0002-abcdef", "2" * 32, "203.0.113.9"
LAUNCHED, NOW = 1_000_000.0, 1_009_000.0
PHASE = "research-log/phase12-fractal-sampler"
ONE, TWO = f"{PHASE}/runs/0001-train", f"{PHASE}/runs/0002-train"
OURS = CloudInstance(ID, NAME, "active", "gpu_1x_a10", "us-east-1", 1.29, IP)
INTENT = {"event": "intent", "at": LAUNCHED, "name": NAME, "alias": "lambda", "digest": "p" + "0" * 12}
CAME_UP = {"event": "launched", "at": LAUNCHED + 1, "name": NAME, "id": ID}


@dataclass
class Desk:
    """A person's computer: a folder with a research log, a ledger, and one machine in the cloud's list."""

    folder: Path
    entries: list[dict[str, Any]] = field(default_factory=lambda: [INTENT, CAME_UP])
    machine: CloudInstance = OURS

    def settings(self, *words: str) -> Settings:
        """As typed here."""
        settings = loaded("action=terminate", *words)
        paths = replace(settings.paths, research_log=self.folder / "research-log", state=self.folder / "s")
        return replace(settings, paths=paths)

    @property
    def ledger(self) -> Ledger:
        return fold(self.entries)

    def loss(self, held: MachineContents | None, *words: str) -> Guard:
        """What the guard says."""
        seen = Fleet(self.ledger, (self.machine,), NOW)
        return check_loss(self.settings(*words), seen, self.machine, held)

    def run(self, folder: str = ONE, name: str = "lambda", at: float = LAUNCHED + 60) -> Path:
        """A run that was started here on the machine that ssh calls `name`."""
        run = self.folder / folder
        run.mkdir(parents=True)
        (run / "plan.json").write_text(json.dumps({"instance": {"name": name, "provider": "lambda"}}))
        os.utime(run / "plan.json", (at, at))
        return run


@cache
def loaded(*words: str) -> Settings:
    return load(list(words), Path("/"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def held_file(path: str, content: bytes = b"weights") -> RemoteFile:
    return RemoteFile(path, hashlib.sha256(content).hexdigest(), len(content))


def held(files: Iterable[str] = (), alive: Iterable[str] = (), ended: Iterable[str] = ()) -> MachineContents:
    """What a machine says of itself."""
    runs = [HeldRun(run, RunStatus(RunState.RUNNING)) for run in alive]
    runs += [HeldRun(run, RunStatus(RunState.ENDED, 0)) for run in ended]
    return MachineContents(tuple(runs), tuple(held_file(path) for path in files))


# ------------------------------------------------------------------------- a machine that does not answer


def test_a_machine_of_ours_on_which_nothing_was_started_goes_without_questions(desk: Desk) -> None:
    assert desk.loss(None) == Guard()
    desk.machine = replace(desk.machine, status="booting", ip=None)
    assert desk.loss(None) == Guard()


@pytest.mark.parametrize("folder", ["research-log/runs/0001-run", ONE])
@pytest.mark.parametrize("name", ["lambda", NAME, ID, IP])
def test_a_run_under_any_name_of_the_machine_keeps_it(desk: Desk, folder: str, name: str) -> None:
    desk.run(folder, name)
    assert Path(folder).name in desk.loss(None).unknown_because
    assert desk.loss(None, "discard=[unreachable]").reason is None


def test_a_name_that_it_had_before_it_was_renamed_is_its_own(desk: Desk) -> None:
    desk.run(name="lambda")
    desk.machine = replace(desk.machine, name="my-gpu")
    assert desk.loss(None, f"machine={ID}").unknown_because


def test_a_clock_that_was_wrong_at_the_launch_hides_no_run(desk: Desk) -> None:
    desk.run(at=LAUNCHED - 600)
    assert desk.loss(None).unknown_because


@pytest.mark.parametrize("name", ["lambda", "my-gpu", ID])
def test_a_run_of_another_research_log_keeps_it_by_the_ledger_and_by_no_clock(desk: Desk, name: str) -> None:
    folder = "/elsewhere/experiments/phase1-x/runs/0001-train"
    run = {"event": "run", "at": LAUNCHED - 10**6, "name": name, "run": folder}
    desk.machine = replace(desk.machine, name="my-gpu")
    desk.entries = [run, *desk.entries]
    assert desk.loss(None, f"machine={ID}") == Guard(), "of an earlier machine"
    desk.entries = [*desk.entries, run]
    assert "0001-train" in desk.loss(None, f"machine={ID}").unknown_because
    assert folder[1:] in desk.loss(held(), f"machine={ID}").unknown_because
    assert desk.loss(held(ended=["experiments/phase1-x/runs/0001-train"]), f"machine={ID}").reason is None


def test_a_run_of_an_earlier_machine_of_the_same_alias_is_not_its(desk: Desk) -> None:
    desk.run(at=LAUNCHED - 3000)
    earlier = {"name": "lambda-0001-abcdef", "id": "1" * 32}
    desk.entries = [
        {"event": "intent", "at": LAUNCHED - 4000, "alias": "lambda", "digest": "p" + "1" * 12, **earlier},
        {"event": "launched", "at": LAUNCHED - 3999, **earlier},
        {"event": "gone", "at": LAUNCHED - 2000, **earlier},
        *desk.entries,
    ]
    assert desk.loss(None) == Guard()
    desk.run(TWO, at=LAUNCHED + 60)
    assert (
        "0002-train" in desk.loss(None).unknown_because
        and "0001-train" not in desk.loss(None).unknown_because
    )


def test_a_run_that_failed_before_its_start_was_none(desk: Desk) -> None:
    run = desk.run()
    steps = [{"name": "sync", "exit_code": 255}]
    (run / "result.json").write_text(json.dumps({"steps": steps, "log": None}))
    assert desk.loss(None) == Guard()
    steps.append({"name": "start", "exit_code": 255})
    (run / "result.json").write_text(json.dumps({"steps": steps, "log": None}))
    assert desk.loss(None).unknown_because, "the link was lost: it may have started"


@pytest.mark.parametrize(
    "entries",
    [
        [CAME_UP],  # rebuilt from the cloud's list, or adopted by another laptop
        [{"event": "seen", "at": NOW, "name": NAME, "id": ID, "state": "active"}],  # a colleague's
        [],
    ],
)
def test_a_machine_without_our_own_request_for_it_is_never_empty_unseen(
    desk: Desk, entries: list[dict[str, Any]]
) -> None:
    desk.entries = entries
    loss = desk.loss(None)
    assert "its launch is not on record here" in loss.unknown_because
    assert desk.loss(None, "discard=[unreachable]").accepted == ("all that nobody can see",)


# ----------------------------------------------------------------------------------- what is seen there


def test_a_run_that_the_machine_does_not_show_means_another_root(desk: Desk) -> None:
    desk.run("research-log/runs/0001-run")
    assert "remote.root" in desk.loss(held()).unknown_because
    assert desk.loss(held(ended=["research-log/runs/0001-run"])).reason is None
    assert desk.loss(held(), "discard=[unreachable]").accepts_unseen


def test_what_is_here_byte_for_byte_is_not_lost(desk: Desk) -> None:
    there = held([f"{PHASE}/ck/a.pt"])
    assert f"{PHASE}/ck/a.pt" in (desk.loss(there).reason or "")
    (desk.folder / PHASE / "ck").mkdir(parents=True)
    (desk.folder / PHASE / "ck/a.pt").write_bytes(b"weights")
    assert (desk.loss(there).reason, desk.loss(there).num_here) == (None, 1)


def test_what_was_pushed_and_is_as_it_was_is_ours_to_make_again(desk: Desk) -> None:
    there = held([f"{PHASE}/train.py"])
    assert f"{PHASE}/train.py" in (desk.loss(there).reason or ""), "it was changed there"
    there = replace(there, files=(replace(there.files[0], was_pushed=True),))
    assert (desk.loss(there).reason, desk.loss(there).num_here) == (None, 1)


@pytest.mark.parametrize("path", ["notes.txt", "data/x.bin", f"{PHASE}/by-hand/b.pt", "experiments/p/ck/a"])
def test_what_no_artifact_names_keeps_the_machine_wherever_it_is(desk: Desk, path: str) -> None:
    assert path in (desk.loss(held([path])).reason or "")
    (line,) = told(desk, [path])
    assert ("action=backup" in line) == path.startswith(PHASE)


def test_a_link_that_leads_out_of_the_root_is_told_and_given_up_by_its_name(desk: Desk) -> None:
    there = MachineContents(files=(RemoteFile(f"{PHASE}/big", "outside", None),))
    loss = desk.loss(there)
    assert f"{PHASE}/big (a link that leads out of the root)" in (loss.reason or "")
    copied, why, _ = rescue_lines(desk.settings(), desk.machine, loss, DECLARED)
    assert "--copy-unsafe-links" in copied and "discard" in why
    assert desk.loss(there, "discard=[big]").reason is None


def test_what_came_into_the_home_folder_since_our_first_look_keeps_the_machine(desk: Desk) -> None:
    old, new = HomeEntry("old", 1, 10, "1 10 5"), HomeEntry("my data", 3, 12 * 10**9, "3 12 7")
    there = MachineContents(home=(old, new))
    assert "~/old (1 file, 10 bytes), ~/my data (3 files, 12 GB)" in (desk.loss(there).reason or "")
    desk.entries.append({"event": "home", "at": LAUNCHED + 9, "id": ID, "holds": {"old": old.stamp}})
    desk.entries.append({"event": "home", "at": LAUNCHED + 99, "id": ID, "holds": {"my data": new.stamp}})
    loss = desk.loss(there)
    assert loss.home == (new,), "the first look counts"
    copy, accept = rescue_lines(desk.settings(), desk.machine, loss, DECLARED)
    assert "rsync" in copy and "my data" in copy
    typed = shlex.split(accept.removeprefix("to accept the loss: "))[-1]
    given_up = desk.loss(there, typed)
    assert given_up.reason is None and given_up.accepted == (new.told,)
    changed = replace(there, home=(replace(old, stamp="2 11 9"),))
    assert desk.loss(changed).home == changed.home and desk.loss(changed).contents != loss.contents


def test_the_whole_path_means_that_path_though_another_ends_in_it(desk: Desk) -> None:
    there = held(["data/x", f"{PHASE}/data/x"])
    assert [f.path for f in desk.loss(there, "discard=[data/x]").files] == [f"{PHASE}/data/x"]


def test_the_contents_are_those_of_the_very_bytes_and_runs(desk: Desk) -> None:
    there = held([f"{ONE}/log"], ended=[ONE])
    again = replace(there, files=(held_file(f"{ONE}/log", b"more"),))
    seen = [desk.loss(now).contents for now in (there, there, again, held([f"{ONE}/log"], alive=[ONE]))]
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_of_many_files_no_line_to_type_is_long(desk: Desk) -> None:
    there = held(f"{PHASE}/samples/{n}.json" for n in range(5000))
    lines = rescue_lines(desk.settings(), desk.machine, desk.loss(there), DECLARED)
    assert max(map(len, lines)) < 1000
    assert desk.loss(there, "discard=[samples]").reason is None


# --------------------------------------------------------------------------------------------- discard


def test_a_run_that_is_named_is_that_run_and_nothing_else(desk: Desk) -> None:
    artifacts = [f"{PHASE}/ck1/w.pt", f"{PHASE}/ck2/w.pt", f"{PHASE}/ck2/0001-train/w.pt"]
    there = held([f"{ONE}/log", f"{TWO}/log", *artifacts], ended=[ONE, TWO])
    loss = desk.loss(there, "discard=[0001-train]")
    assert [file.path for file in loss.given_up_files] == [f"{ONE}/log"]
    assert [file.path for file in loss.files] == [f"{TWO}/log", *artifacts]


def test_the_artifacts_of_a_phase_go_with_the_last_of_its_runs(desk: Desk) -> None:
    artifact = f"{PHASE}/ck/w.pt"
    other = "research-log/phase11-fractal-logic/runs/0003-train"
    there = held([f"{ONE}/log", f"{TWO}/log", artifact], ended=[ONE, TWO, other])
    assert desk.loss(there, "discard=[0001-train]").reason == f"not verified here: {TWO}/log, {artifact}"
    assert desk.loss(there, "discard=[0001-train, 0002-train]").reason is None
    assert desk.loss(there, "discard=[0003-train]").files == there.files


def test_a_run_of_no_phase_takes_nothing_along(desk: Desk) -> None:
    there = held([f"{PHASE}/ck/w.pt", "research-log/runs/0001-run/log"], ended=["research-log/runs/0001-run"])
    assert desk.loss(there, "discard=[0001-run]").reason == f"not verified here: {PHASE}/ck/w.pt"


def test_an_artifact_is_named_by_its_file_or_its_folder(desk: Desk) -> None:
    there = held([f"{PHASE}/ck1/w.pt", f"{PHASE}/ck2/w.pt", f"{PHASE}/ck2/old.pt"])
    for word, lost in [
        ("ck2", {"ck2/w.pt", "ck2/old.pt"}),
        ("./ck2/w.pt", {"ck2/w.pt"}),
        ("old.pt", {"ck2/old.pt"}),
    ]:
        given_up = desk.loss(there, f"discard=[{word}]").given_up_files
        assert {file.path for file in given_up} == {f"{PHASE}/{path}" for path in lost}


@pytest.mark.parametrize("word", ["0001-train", "log", "w.pt"])
def test_a_word_that_may_mean_two_things_is_64_with_both(desk: Desk, word: str) -> None:
    other = "research-log/phase11-fractal-logic"
    files = [f"{folder}/{name}" for folder in (PHASE, other) for name in ("runs/0001-train/log", "ck/w.pt")]
    there = held(files, ended=[ONE, f"{other}/runs/0001-train"])
    with pytest.raises(UsageError) as caught:
        desk.loss(there, f"discard=[{word}]")
    assert len(caught.value.hints) == 2
    for whole in caught.value.hints:
        given_up = [file.path for file in desk.loss(there, f"discard=[{whole.strip()}]").given_up_files]
        assert {PurePosixPath(path).parts[1] for path in given_up} == {whole.split("/")[1]}


def test_a_run_that_is_alive_goes_only_by_its_own_name(desk: Desk) -> None:
    there = held([f"{ONE}/log"], alive=[ONE])
    for word in (PHASE, "log", "0002-train"):
        assert [run.folder for run in desk.loss(there, f"discard=[{word}]").alive] == [ONE]
    assert desk.loss(there, "discard=[0001-train]").reason is None
    assert desk.loss(there, f"discard=[{ONE}]").reason is None


def test_the_digest_covers_the_very_bytes_that_are_given_up(desk: Desk) -> None:
    there = held([f"{PHASE}/ck/w.pt"])
    basis = desk.loss(there, "discard=[ck]").basis
    assert basis == desk.loss(there, "discard=[ck]").basis != ()
    one_more = held([f"{PHASE}/ck/w.pt", f"{PHASE}/ck/best.pt"])
    changed = replace(there, files=(held_file(f"{PHASE}/ck/w.pt", b"better weights"),))
    assert len({basis, *(desk.loss(now, "discard=[ck]").basis for now in (one_more, changed))}) == 3
    assert desk.loss(there).basis == ()


def test_a_run_that_is_given_up_alive_may_go_on_writing(desk: Desk) -> None:
    before = desk.loss(held([f"{ONE}/log"], alive=[ONE]), "discard=[0001-train]")
    wrote = [f"{ONE}/log", f"{ONE}/more", f"{PHASE}/ck/w.pt"]
    after = desk.loss(held(wrote, alive=[ONE]), "discard=[0001-train]")
    assert before.basis == after.basis == (("lost", ONE),)


# ------------------------------------------------------------------------------------ what to type next

DECLARED = {"phase12-fractal-sampler": Declared("phase12", ("checkpoints/",))}


def told(desk: Desk, files: Iterable[str] = (), alive: Iterable[str] = ()) -> list[str]:
    """What a refusal says to type, without its last line, which accepts the loss."""
    loss = desk.loss(held(files, alive=alive))
    *lines, last = rescue_lines(desk.settings(), desk.machine, loss, DECLARED)
    assert loss_of_words(desk, files, alive, last).reason is None
    return lines


def loss_of_words(desk: Desk, files: Iterable[str], alive: Iterable[str], line: str) -> Guard:
    """What is left when the last line is typed as it was shown."""
    typed = shlex.split(line.removeprefix("to accept the loss: "))
    assert "action=terminate" in typed
    return desk.loss(held(files, alive=alive), typed[-1])


def test_what_no_backup_brings_has_a_command_of_its_own(desk: Desk) -> None:
    desk.run()
    files = [f"{ONE}/log", f"{ONE}/samples.jsonl", f"{PHASE}/checkpoints/a.pt", f"{PHASE}/by-hand/b.pt"]
    log, backup, others = told(desk, files)
    assert {"action=logs", "phase=phase12", "run=0001-train"} <= set(log.split())
    assert "action=backup" in backup and "phase.artifacts" not in backup
    assert "phase.artifacts=[runs/0001-train/samples.jsonl,by-hand/b.pt]" in others


def test_a_log_of_a_run_that_was_not_started_here_is_fetched_as_a_file(desk: Desk) -> None:
    (line,) = told(desk, [f"{ONE}/log"])
    assert "action=backup" in line and "phase.artifacts=[runs/0001-train/log]" in line


def test_what_belongs_to_no_phase_here_is_copied(desk: Desk, tmp_path: Path) -> None:
    """The line is carried out, by an ssh that has its machine in a folder."""
    there, here = tmp_path / "machine", desk.settings().paths.root
    name = "experiments/phase1-x/ck/it's a $(touch no) \n.pt"
    (there / "Fractal" / name).parent.mkdir(parents=True)
    (there / "Fractal" / name).write_text("weights")
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    reach = f'until [ "$1" = lambda ]; do shift; done; shift; HOME={there}; cd && eval "$*"'
    ssh.write_text(f"#!/bin/bash\n{reach}\n")
    ssh.chmod(0o755)
    (here / name).parent.mkdir(parents=True)
    (here / name).write_text("another")
    (line,) = told(desk, [name])
    command = line.removeprefix("to bring it home: ")
    subprocess.run(["bash", "-c", command], check=True, env={"PATH": f"{ssh.parent}:{os.environ['PATH']}"})
    assert (here / name).read_text() == "weights"
    assert (here / f"{name}.before").read_text() == "another", "what was here is kept"


@pytest.mark.parametrize(
    "name", ["a, b", "it's", 'so "called"', "\\", "'\"", "nl\nx", "[1]", "${x}", "$(x)", "é", "--x", "#1"]
)
def test_a_name_of_any_characters_can_be_given_up_as_it_is_told(desk: Desk, name: str) -> None:
    told(desk, [f"{PHASE}/ck/{name}.pt", f"ck/{name}"])


def test_a_run_that_is_alive_can_be_waited_for(desk: Desk) -> None:
    desk.run()
    wait, backup = told(desk, alive=[ONE])
    assert "action=logs" in wait and "run=0001-train" in wait and "action=backup" in backup


def test_many_files_are_named_by_what_they_are_in(desk: Desk) -> None:
    desk.run()
    files = [f"{PHASE}/{folder}/{n}.pt" for n in range(9) for folder in ("by-hand", "runs/0001-train/.x")]
    (line,) = told(desk, files)
    assert "phase.artifacts=[by-hand,runs/0001-train/.x]" in line


# ------------------------------------------------------------------------------------- the last look


def looked_again(
    desk: Desk, before: tuple[tuple[str, str], ...], now: MachineContents | None, *words: str
) -> Any:
    """What the last look says, when the plan saw `before` and the machine shows `now`."""
    plan = Plan(
        "terminate", Effect.DESTROY, Target("lambda", "lambda"), (), basis=(("machine", ID),), observed=before
    )

    def reply(question: Any) -> Any:
        if isinstance(question, Now):
            return NOW
        if isinstance(question, Account):
            return "a1"
        assert isinstance(question, Fact)
        return (desk.machine,) if isinstance(question.ask, Request) else now

    return drive(recheck(desk.settings(*words), plan), reply)


def test_what_changes_while_a_plan_is_made_keeps_the_machine(desk: Desk) -> None:
    desk.settings().paths.state.mkdir()
    before = held([f"{PHASE}/ck/w.pt"], ended=[ONE])
    assert looked_again(desk, observed(before, ()), before) is None
    began = held([f"{PHASE}/ck/w.pt"], ended=[ONE], alive=[TWO])
    assert TWO in looked_again(desk, observed(before, ()), began)
    grew = held([f"{PHASE}/ck/w.pt", f"{PHASE}/ck/best.pt"], ended=[ONE])
    assert "ck/best.pt" in looked_again(desk, observed(before, ()), grew)
    assert "any more" in looked_again(desk, observed(before, ()), None)
    assert looked_again(desk, observed(MachineContents(), ()), MachineContents()) is None


class Cloud:
    """The world of a plan to end a machine: a list with the machine in it."""

    def __init__(self, machine: CloudInstance) -> None:
        row = {"id": machine.id, "name": machine.name, "status": machine.status, "ip": machine.ip}
        kind = {"name": machine.type, "price_cents_per_hour": 129}
        self.row = row | {"region": {"name": machine.region}, "instance_type": kind}

    def http(self, request: Request) -> Result:
        """The list; nothing else may be asked for."""
        assert request.method == "GET", "the machine was ended"
        return Result(0, json.dumps({"data": [self.row]}).encode(), status=200)

    def __getattr__(self, name: str) -> Any:
        """The clock, the account and the like: something."""
        return lambda *_: NOW if name == "now" else "account"


def test_the_request_is_not_sent_after_a_last_look_that_refuses(desk: Desk) -> None:
    desk.machine = replace(desk.machine, ip=None)
    step = Step("terminate", terminate_request("https://cloud", ID), Effect.DESTROY)
    basis, seen = (("machine", ID),), (("machine", "seen"),)
    plan = Plan("terminate", Effect.DESTROY, Target("lambda", "lambda"), (step,), basis=basis, observed=seen)
    settings = replace(desk.settings(), confirm=plan.digest)
    cloud: Any = Cloud(desk.machine)
    with pytest.raises(Refused) as caught:
        show_or_apply(plan, settings, cloud, Paint(False), lambda: plan)
    assert "any more" in caught.value.message and "billed" in caught.value.hints[0]


def test_a_run_that_is_given_up_alive_may_change_until_the_last_moment(desk: Desk) -> None:
    before, now = held([f"{ONE}/log"], alive=[ONE]), held([f"{ONE}/log", f"{ONE}/b"], alive=[ONE])
    assert looked_again(desk, observed(before, (ONE,)), now) is None
    assert "runs/0002" in looked_again(desk, observed(before, (ONE,)), held(alive=[ONE, TWO]))


def test_a_run_that_is_started_on_an_unseen_machine_meanwhile_keeps_it(desk: Desk) -> None:
    state = desk.settings().paths.state
    state.mkdir()
    (state / "ledger.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in desk.entries))
    assert looked_again(desk, (), None) is None
    desk.run()
    assert "0001-train" in looked_again(desk, (), None)
    assert looked_again(desk, (), None, "discard=[unreachable]") is None


# ------------------------------------------------------------------------------- which machine is meant


def test_a_machine_that_was_not_launched_from_here_has_to_be_named(desk: Desk) -> None:
    desk.entries = []
    seen = Fleet(desk.ledger, (desk.machine,), NOW)
    with pytest.raises(UsageError) as caught:
        find_machine(desk.settings(), seen)
    assert any(ID in hint for hint in caught.value.hints)
    assert find_machine(desk.settings(f"machine={ID}"), seen) is desk.machine


# -------------------------------------------------------------------------- the ssh configuration after it


def test_a_configuration_that_changed_meanwhile_is_left_and_the_end_is_no_failure(desk: Desk) -> None:
    settings = desk.settings()
    config = desk.folder / "config"
    settings = replace(settings, ssh=replace(settings.ssh, config=config))
    marks = ("# >>> fractal-runner lambda (x) >>>", "# <<< fractal-runner lambda <<<")
    block = f"{marks[0]}\nHost lambda\n  HostKeyAlias fractal-{ID}\n{marks[1]}\n"
    config.write_text(block + "Host other\n")
    step = removal_step(settings, desk.machine)
    assert step is not None
    changed = block + "Host other\n  Port 99\n"
    config.write_text(changed)
    code, said = written(step)
    assert (code, config.read_text(), b"take them out" in said) == (0, changed, True)
    config.write_text(block + "Host other\n")
    assert (written(step), config.read_text()) == ((0, b""), "Host other\n")


def written(step: Step) -> tuple[int, bytes]:
    """Take a step that writes a file: its exit code, and what it said."""
    assert isinstance(step.action, WriteFile)
    shown = io.BytesIO()
    return Live().write(step.action, Screen(shown)).exit_code, shown.getvalue()

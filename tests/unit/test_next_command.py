"""What the runner says to type next works as it stands: it looks where the person looked."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.config.freeze import load
from runner.config.multirun import load_sweep
from runner.errors import RunnerError
from runner.jobs import job
from runner.machines import fleet, launch, status, terminate
from runner.machines.guard import Guard
from runner.machines.lambda_api import CloudInstance
from runner.machines.ledger import Ledger
from runner.machines.probe import HeldRun
from runner.plan.next_command import in_context, overview_line, repeat_line, spell_next
from runner.plan.plan import Effect, Plan, PlanResult, StepResult, Target
from runner.plan.settings import Settings
from runner.research_log.runs import RunState, RunStatus
from runner.view.text import Paint, consent_line, detached_text, next_command
from tests.conftest import Runner
from tests.support import Lab

HOUSE = Path(runner.__file__).parent
# Only these may spell the program; the first makes command lines, the others carry its name to Settings.
DOORS = ("plan/next_command.py", "plan/settings.py", "config/freeze.py", "config/multirun.py", "cli.py")
OURS = re.compile(r"(?:[\w./]*python -m runner|(?<![\w/.-])runner) [^\n]*")
MACHINE = CloudInstance("i-1", "lambda-0001-abcdef", "unhealthy", "gpu_1x_a10", "us-west-1", 1.29, "1.2.3.4")


@pytest.fixture
def places(research_log: Lab, tmp_path: Path) -> tuple[str, ...]:
    """Overrides of where things are, as somebody types them."""
    folder = research_log.add_phase(args={"x": 1, "batch_size": "${batch_size}"}, batch_size=2)
    (folder / "PLAN.md").write_text("a plan")  # else the next thing to do is to write one
    return (
        *(f"--config-dir={research_log.conf}", f"paths.research_log={research_log.log}"),
        *(f"paths.state={tmp_path / 'my state'}", f"ssh.config={tmp_path / 'config'}", "ssh.port=2222"),
        *("cloud.base_url=http://127.0.0.1:1/api", "remote.root=~/It's", f"paths.venv={research_log.venv}"),
    )


def typed(places: tuple[str, ...], *words: str) -> Settings:
    config, *rest = places
    return load([*words, *rest], Path("/"), Path(config.partition("=")[2]))


def assert_holds(line: str, places: tuple[str, ...]) -> None:
    words = shlex.split(line)
    assert set(places) <= set(words), line
    assert "confirm=false" not in words


def test_one_module_spells_our_command_lines() -> None:
    for path in sorted(HOUSE.rglob("*.py")):
        if str(path.relative_to(HOUSE)) in DOORS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr == "program"), path


def test_every_builder_holds_the_places(places: tuple[str, ...]) -> None:
    settings = typed(places, "phase=phase1", "action=train", "instance=gpu_1x_a10", "batch_size=3")
    for line in (
        spell_next(settings, "status"),
        spell_next(settings, "logs", "run=0001"),
        repeat_line(settings, "confirm=p000000000000"),
        overview_line(settings),
        in_context(settings, "To see: python -m runner action=status").removeprefix("To see: "),
    ):
        assert_holds(line, places)


def test_what_is_there_already_is_not_said_twice(places: tuple[str, ...]) -> None:
    settings = typed(places, "phase=phase1", "action=train")
    line = spell_next(settings, "status")
    assert in_context(settings, line) == line


@pytest.mark.parametrize(
    "text", ["See: python -m runner --help", "/x/python -m runner action=status", "no line of ours"]
)
def test_other_texts_stay_as_they_are(text: str, places: tuple[str, ...]) -> None:
    assert in_context(typed(places), text) == text


def test_what_belongs_to_one_verb_is_left_out(places: tuple[str, ...]) -> None:
    settings = typed(places, "phase=phase1", "action=logs", "run=0003", "lines=5", "machine=other")
    words = shlex.split(spell_next(settings, "stop"))
    assert not {"run=0003", "lines=5", "action=logs"} & set(words)
    assert {"machine=other", "phase=phase1", "action=stop"} <= set(words)


def test_a_line_after_a_sweep_is_no_sweep(places: tuple[str, ...], tmp_path: Path) -> None:
    config, *rest = places
    words = ["phase=phase1", "action=train", "batch_size=1,2", *rest]
    settings = load_sweep(words, tmp_path, Path(config.partition("=")[2])).settings
    line = spell_next(settings, "logs", "run=0001")
    assert_holds(line, places)
    assert not {"-m", "batch_size=1,2"} & set(shlex.split(line)[3:])
    assert "-m" in shlex.split(repeat_line(settings, "confirm=true"))[3:]


def machine_texts(settings: Settings) -> dict[str, str]:
    """What the verbs around a machine say to type next."""
    seen = fleet.Fleet(Ledger(()), (MACHINE,), 0.0)
    alive = HeldRun("research-log/phase1-test/runs/0001-train", RunStatus(RunState.RUNNING))
    loss = Guard(alive=(alive,))
    there = launch.existing_machine(settings, "lambda", seen)
    assert there is not None
    return {
        "rent": fleet.rent_line(settings),
        "terminate": "\n".join(terminate.notes(settings, MACHINE, loss)[:-1]),
        "wait": said_by(status.check_alive, settings, MACHINE),
        "none": said_by(fleet.exactly_one, [], settings, fleet.Fleet(Ledger(()), (), 0.0)),
        "launch": there.reason or "",
        "logs": said_by(job.started_run, settings),
    }


def said_by(rule: Any, *args: Any) -> str:
    with pytest.raises(RunnerError) as caught:
        rule(*args)
    return "\n".join(caught.value.hints)


def test_what_is_said_around_a_machine_holds_the_places(places: tuple[str, ...]) -> None:
    for name, text in machine_texts(typed(places, "phase=phase1", "action=terminate")).items():
        lines = OURS.findall(text)
        assert lines, (name, text)
        for line in lines:
            assert_holds(line, places)


def test_bringing_it_home_names_the_machine_and_a_kind_that_is_not_this_computer(
    places: tuple[str, ...],
) -> None:
    *_, line = OURS.findall(machine_texts(typed(places, "action=terminate"))["terminate"])
    assert {"phase=phase1", "action=backup", "machine=lambda-0001-abcdef", "instance=gpu_1x_a10"} <= set(
        shlex.split(line)
    )


def test_what_is_said_around_a_plan_holds_the_places(places: tuple[str, ...]) -> None:
    settings = typed(places, "phase=phase1", "action=train", "instance=gpu_1x_a10")
    plan = Plan("train", Effect.CHANGE, Target("lambda", "lambda"), (), phase="phase1-test", run="0001-train")
    ended = [PlanResult(plan, code, (StepResult("follow", code, 1.0),)) for code in (0, 1, 130)]
    lines = [consent_line(plan, settings), *(next_command(result, settings) for result in ended)]
    lines += OURS.findall(detached_text(ended[2], settings, Paint(False)))
    assert len(lines) == 6
    for line in lines:
        assert_holds(line, places)


ANSWERS = (
    ("discover", ()),
    ("train", ("phase=phase1",)),
    ("train", ("phase=phase1", "instance=gpu_1x_a10")),
    ("train", ("phase=phase1", "batch_size=1,2", "-m")),
    ("setup", ()),
    ("logs", ()),
    ("stop", ("phase=phase1",)),
    ("run", ("command=true", "instance=gpu_1x_a10")),
    ("available", ()),
    ("status", ()),
    ("launch", ("instance=gpu_1x_a10",)),
    ("terminate", ()),
)


@pytest.mark.parametrize(("action", "words"), ANSWERS)
def test_what_a_verb_says_to_type_next_holds_the_places(
    action: str, words: tuple[str, ...], places: tuple[str, ...], runner_here: Runner
) -> None:
    soon = "cloud.time_scale=0.001"  # nobody answers at that address
    done = runner_here(f"action={action}", *words, *places, soon, env={"LAMBDA_API_KEY": "secret"})
    lines = OURS.findall(done.stdout + done.stderr)
    lines = [line for line in lines if "--help" not in line]
    assert lines, done
    for line in lines:
        assert_holds(line, places)

"""The table of verbs: documented ones are those that exist, and each can be loaded and is in the help."""

from importlib import import_module

import pytest

from runner.help import CONF, help_text
from runner.hydra_flags import actions_to_complete
from runner.machines.guard import Guard, unmatched
from runner.machines.probe import HeldRun, MachineContents, RemoteFile
from runner.plan.next_command import OF_ONE_VERB
from runner.plan.plan import Effect
from runner.research_log.runs import RunState, RunStatus
from runner.verbs import OF_JOB, VERBS
from tests.conftest import Runner
from tests.support import Lab

# What the verbs are promised to do to the world.
PROMISED = {
    **dict.fromkeys(("discover", "available", "wait", "status", "logs", "doctor", "report"), Effect.READ),
    **dict.fromkeys(("preflight", "setup-ssh", "sync", "setup", "run", "stop", "backup"), Effect.CHANGE),
    **dict.fromkeys(("launch", "up"), Effect.PAY),
    "terminate": Effect.DESTROY,
}


def test_a_verb_does_to_the_world_what_is_promised() -> None:
    assert {verb.name: verb.effect for verb in VERBS}.items() <= PROMISED.items()


def test_every_verb_can_be_loaded() -> None:
    for verb in VERBS:
        module, _, function = verb.rules.partition(":")
        assert callable(getattr(import_module(f"runner.{module}"), function))


def test_names_are_there_once() -> None:
    assert len({verb.name for verb in VERBS}) == len(VERBS)


def test_the_help_has_each_verb_in_a_line_with_its_effect() -> None:
    lines = help_text((CONF,)).splitlines()
    for verb in VERBS:
        assert any(
            line.split()[:1] == [verb.name] and verb.summary in line and line.endswith(verb.effect.value)
            for line in lines
        ), verb.name


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runner action=se", ["action=setup-ssh", "action=setup"]),
        ("runner phase=phase12 action=ge", ["action=generate"]),
        ("runner phase=phase12 -m action=g", ["action=generate"]),
        ("runner phase=phase12 ", []),
        ("runner --nonsense action=t", []),
        ("runner action=nope", []),
    ],
)
def test_an_action_is_completed_by_verbs_and_jobs(line: str, expected: list[str]) -> None:
    assert actions_to_complete(line) == expected


KEYS = {
    "command",
    "run",
    "lines",
    "resume",
    "discard",
    *("wait_for_capacity", "budget_usd", "require_preflight"),
}


def test_every_key_of_single_verbs_belongs_to_one() -> None:
    assert {key for verb in VERBS for key in verb.keys} | set(OF_JOB) == KEYS
    assert set(OF_ONE_VERB) > KEYS


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("action=status", "run=3"), "It belongs to: action=logs, action=stop, action=doctor, action=report"),
        (("phase=phase1", "action=train", "lines=5"), "takes no lines="),
        (("phase=phase1", "action=train", "command=ls"), "It belongs to: action=run."),
        (("phase=phase1", "action=setup", "resume=3"), "It belongs to: a job of the phase."),
        (("action=logs", "discard=[x]"), "It belongs to: action=terminate."),
        (("action=terminate", "budget_usd=3"), "It belongs to: action=launch, action=up."),
        (("phase=phase1", "action=train", "batch_size=1,2", "-m", "lines=3"), "takes no lines="),
        (("phase=phase1", "action=train", "machine=lambda-2"), "instance=local is this computer"),
        (("phase=phase1", "action=backup", "machine=lambda-2"), "instance=gpu_1x_a10"),
        (("action=run", "command=ls", "machine=lambda-2"), "instance=local is this computer"),
    ],
)
def test_what_a_verb_would_pass_over_is_refused(
    typed: tuple[str, ...], words: str, research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase(batch_size=1, args={"batch_size": "${batch_size}"})
    done = runner_here(*typed, *research_log.args)
    assert done.exit_code == 64, done
    assert words in done.stderr


@pytest.mark.parametrize(
    "typed",
    [
        ("phase=phase1", "action=train", "run=7"),
        ("phase=phase1", "action=train", "require_preflight=false", "lines=null", "machine=null"),
        ("phase=phase1", "action=preflight", "machine=lambda-2"),
    ],
)
def test_what_a_verb_takes_is_taken(typed: tuple[str, ...], research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    done = runner_here(*typed, *research_log.args)
    assert done.exit_code == 0, done


def test_a_word_of_discard_that_matches_nothing_is_told() -> None:
    run = HeldRun("research-log/phase1-test/runs/0001-train", RunStatus(RunState.ENDED, 0))
    held = MachineContents((run,), (RemoteFile("research-log/phase1-test/model.pt", "c", 1),))
    assert unmatched(("0001-train", "model.pt", "research-log/phase1-test"), held, Guard()) == ()
    (slip,) = unmatched(("0001-trian",), held, Guard())
    assert slip == "discard=[0001-trian] matches nothing on the machine. Did you mean 0001-train?"
    (needless,) = unmatched(("unreachable",), held, Guard())
    assert "the machine answers" in needless
    assert unmatched(("0001-trian",), None, Guard()) == ()


def test_the_help_of_a_verb_is_of_it_alone(runner_here: Runner) -> None:
    for verb in VERBS:
        done = runner_here(f"action={verb.name}", "--help")
        assert done.exit_code == 0, done
        assert done.stdout.startswith(f"action={verb.name} ({verb.effect.value}): {verb.summary}\n")
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "Phases (phase=…)" not in done.stdout
        for key in (*verb.keys, *(("confirm",) if verb.effect is not Effect.READ else ())):
            assert any(
                line.split()[:1] == [key] and len(line.split()) > 1 for line in done.stdout.splitlines()
            )
        assert done.stdout.rpartition("Example\n")[2].startswith("  python -m runner ")


def test_the_help_of_a_job_has_its_arguments_with_their_values(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase(args={"model": "nano", "batch_size": "${batch_size}", "x": None}, batch_size=8)
    done = runner_here("--help", "phase=phase1", "action=train", *research_log.args)
    assert done.exit_code == 0, done
    rows = [line.split() for line in done.stdout.splitlines()]
    for row in (["model", "nano"], ["batch_size", "8"], ["x", "(left", "out)"]):
        assert row in rows
    assert "phase=phase1 action=train args.model=nano" in done.stdout
    assert "discover" not in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("action=trian", "--help"), "Did you mean train?"),
        (("action=trian", "phase=phase1", "--help"), "Did you mean train?"),
    ],
)
def test_the_help_of_nothing_says_what_there_is(
    words: tuple[str, ...], expected: str, research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase()
    done = runner_here(*words, *research_log.args)
    assert done.exit_code == 64, done
    assert expected in done.stderr or "jobs need a phase" in done.stderr


def test_the_help_fits_a_terminal_and_shows_examples() -> None:
    text = help_text((CONF,))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("  python -m runner") >= 4

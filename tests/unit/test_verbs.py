"""The table of verbs: documented ones are those that exist, and each can be loaded and is in the help."""

from importlib import import_module

from runner.cli import CONF
from runner.plan.plan import Effect
from runner.verbs.verb import VERBS
from runner.view.help import help_text

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
        assert callable(getattr(import_module(f"runner.verbs.{module}"), function))


def test_names_are_there_once() -> None:
    assert len({verb.name for verb in VERBS}) == len(VERBS)


def test_the_help_has_each_verb_in_a_line_with_its_effect() -> None:
    lines = help_text((CONF,)).splitlines()
    for verb in VERBS:
        assert any(
            line.split()[:1] == [verb.name] and verb.summary in line and line.endswith(verb.effect.value)
            for line in lines
        ), verb.name


def test_the_help_fits_a_terminal_and_shows_examples() -> None:
    text = help_text((CONF,))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("  python -m runner") >= 4

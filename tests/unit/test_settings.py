"""From a command line to settings: what is typed arrives, and every mistake is one message that helps."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from runner.compose import Typed, compose_config, in_grammar, typed_list
from runner.errors import UsageError
from runner.freeze import load
from runner.plan.settings import Settings
from tests.conftest import Runner
from tests.support import Lab

TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
Load = Callable[..., Settings]

# What is typed behind `phase=phase1 action=train` → what the message must say. Exit code 64, no traceback.
MISTAKES = {
    "phase=phse1": ("phase=phse1", "Did you mean phase1", "Choices: "),
    "phase=": ("phase=", "Choices: "),
    "phase=phase1,phase11": ("sweep", "-m"),
    "action=trian": ("action=trian", "Did you mean train?", "Jobs of phase1-test: train", "Verbs: "),
    "action=": ("action=",),
    "instance=gpu_1x_a11": ("gpu_1x_a11", "Did you mean gpu_1x_a10", "Choices: "),
    "generation=greddy": ("greddy", "Did you mean greedy"),
    "batch_size=0": ("batch_size=0", "1 or more"),
    "batch_size=-3": ("batch_size=-3", "1 or more"),
    "batch_size=abc": ("batch_size=abc",),
    "batch_size=1.5": ("batch_size=1.5",),
    "batch_size=[1]": ("batch_size",),
    "phase.batch_size=0": ("batch_size=0",),
    "lines=0": ("lines=0",),
    "batchsize=3": ("batchsize: there is no such key", "Did you mean batch_size"),
    "phase.batchsize=3": ("phase.batchsize", "Did you mean phase.batch_size"),
    "paths.reserch_log=x": ("paths.reserch_log", "Did you mean research_log?"),
    "remote.rot=x": ("remote.rot", "Did you mean root?"),
    "ssh.prot=22": ("ssh.prot", "Did you mean port?"),
    "ssh.port=many": ("ssh.port=many",),
    "output=yaml": ("output=yaml", "Choices: text, json, script"),
    "confirm=yes": ("confirm=yes", "A digest is p and 12 hex digits"),
    "wait_for_capacity=long": ("wait_for_capacity=long", "30m"),
    "=3": ("has no key", "key=value"),
    "nonsense": ("nonsense", "key=value"),
    "phase.jobs.train.args.ckpt=epoch=3.ckpt": (
        "cannot read",
        """type: 'phase.jobs.train.args.ckpt="epoch=3.ckpt"'""",
    ),
    "phase.jobs.train.args.text=Hello, world": (
        "sweep",
        """type: 'phase.jobs.train.args.text="Hello, world"'""",
    ),
    "phase.jobs.train.args.text=李明": ("cannot read", """type: 'phase.jobs.train.args.text="李明"'"""),
    "phase.jobs.train.args.new=3": ("there is no such key", "+phase.jobs.train.args.new="),
    "phase.jobs.train.entrypoint=trian.py": ("trian.py", "does not exist", "Did you mean train.py?"),
    "phase.jobs.train.entrypoint=../train.py": ("'../train.py'", "inside the phase's folder"),
    "phase.jobs.train.entrypoint=/bin/sh": ("inside the phase's folder",),
    "phase.jobs.train.entrypoint=null": ("entrypoint is missing",),
    "+phase.jobs.train.args.deep={a: {b: 1}}": ("phase.jobs.train.args.deep", "a list of those"),
    "+phase.jobs.train.env.A-B=1": ("A-B", "environment variable"),
    "phase.name=../../etc": ("phase.name", "folder in the research log"),
    "phase.name=phase9-none": ("phase9-none", "no such folder"),
    "phase.artifacts=[../x]": ("phase.artifacts", "inside the phase's folder"),
    "instance.name='a b'": ("instance.name", "letters, digits"),
    "instance.provider=lamda": ("instance.provider=lamda: there is no such provider", "Did you mean lambda?"),
    "~action": ("~action", "needs this key", "action=…"),
    "remote=${phase}": ("remote", "its keys can"),
    "batch_size=???": ("batch_size=???", "a value is wanted"),
    "+instance.overrides={a: 1}": ("instance.overrides.a", "a list of requirements"),
    "paths.venv=/a:b": ("paths.venv", "colon"),
    "paths.research_log=/tmp/-log": ("paths.research_log", "dash"),
    "paths.research_log=/nonexistent": ("/nonexistent",),
    "--confg-dir=x": ("unrecognized", "Did you mean --config-dir"),
    "--config-path=x": ("--config-path is not served here", "--config-dir"),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_one_message_that_helps(typed: str, research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase(args={"text": "x", "ckpt": "x"})
    done = runner_here("phase=phase1", "action=train", *research_log.args, typed)
    assert done.exit_code == 64, done
    for words in MISTAKES[typed]:
        assert words in done.stderr, done
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 5, done
    assert not (research_log.log / "phase1-test/runs").exists()


# What a phase's YAML may get wrong → what the message must say.
YAML_MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "not YAML": ("phase: {name: [", ("phase1",)),
    "unknown key": ('{"phase": {"name": "phase1-test", "dpes": []}}', ("dpes", "Did you mean deps?")),
    "unknown key of a job": (
        '{"phase": {"name": "phase1-test", "jobs": {"train": {"entrypiont": "x"}}}}',
        ("entrypiont", "Did you mean entrypoint?"),
    ),
    "wrong type": ('{"phase": {"name": "phase1-test", "deps": 3}}', ("deps",)),
    "no name": ('{"phase": {"jobs": {}}}', ("phase=phase1", "phase.name")),
    "no jobs": ('{"phase": {"name": "phase1-test"}}', ("action=train", "it declares none")),
    "no entrypoint": (
        '{"phase": {"name": "phase1-test", "jobs": {"train": {}}}}',
        ("entrypoint is missing",),
    ),
    "unknown interpolation": (
        '{"phase": {"name": "phase1-x", "jobs": {"train": {"entrypoint": "a", "args": {"x": "${nope}"}}}}}',
        ("nope",),
    ),
    "job name": (
        '{"phase": {"name": "phase1-test", "jobs": {"a b": {"entrypoint": "train.py"}}}}',
        ("a b", "letters, digits"),
    ),
    "job called as a verb": (
        '{"phase": {"name": "phase1-x", "jobs": {"setup": {"entrypoint": "train.py"}}}}',
        ("phase.jobs.setup", "is a verb already"),
    ),
    "unknown instance": (
        '{"defaults": [{"override /instance": "nope"}], "phase": {"name": "phase1-test"}}',
        ("nope",),
    ),
    "batch size": ('{"phase": {"name": "phase1-test", "batch_size": 0}}', ("batch_size=0",)),
    "not a mapping": ("[1, 2]", ("phase1",)),
    "empty": ("", ("phase=phase1", "phase.name")),
}


@pytest.mark.parametrize("mistake", YAML_MISTAKES)
def test_a_mistake_in_a_phase_file_names_it(mistake: str, research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    text, expected = YAML_MISTAKES[mistake]
    (research_log.conf / "phase/phase1.yaml").write_text("# @package _global_\n" + text)
    action = "setup" if "verb" in mistake else "train"
    done = runner_here("phase=phase1", f"action={action}", *research_log.args)
    assert done.exit_code == 64, done
    for words in expected:
        assert words in done.stderr, done
    assert "Traceback" not in done.stderr


def test_a_job_without_a_phase_says_what_is_missing(runner_here: Runner) -> None:
    done = runner_here("action=train")
    assert done.exit_code == 64
    assert "phase=NAME" in done.stderr


# ------------------------------------------------------------------------------------ as typed


@pytest.fixture
def loaded(research_log: Lab, tmp_path: Path) -> Load:
    """`loaded(*overrides)`: the settings of a phase with a job that has an argument `x`."""
    research_log.add_phase(args={"x": None}, batch_size=8)

    def load_with(*overrides: str, cwd: Path = tmp_path) -> Settings:
        config = str(research_log.conf)
        words = ["phase=phase1", f"paths.research_log={research_log.log}", *overrides]
        return load(words, cwd, Path(config))

    return load_with


def argument(settings: Settings) -> Any:
    assert settings.phase
    return dict(settings.phase.jobs[0].args)["x"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("command", "nvidia-smi --query-gpu=name"),
        ("command", "echo 'a, b' > ~/x; [ -e ${HOME} ] && echo \"$(id)\""),
        ("command", "{a: 1}"),
        ("remote.root", "~/Fractal"),
        ("remote.uv_install", "curl -LsSf https://x/y | sh"),
        ("machine", "12e456789012"),
        ("run", "0003"),
    ],
)
def test_what_stands_behind_some_keys_is_taken_as_typed(key: str, text: str, loaded: Load) -> None:
    settings: Any = loaded(f"{key}={text}")
    for name in key.split("."):
        settings = getattr(settings, name)
    assert settings == text


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[torch>=2.5]", ["torch>=2.5"]),
        ("[torch>=2,<3, numpy]", ["torch>=2,<3", "numpy"]),
        ("torch>=2,!=2.1", ["torch>=2,!=2.1"]),
        ("[transformers[torch,vision]>=5, x]", ["transformers[torch,vision]>=5", "x"]),
        ("['a, b', \"c\"]", ["a, b", "c"]),
        ("[x; python_version < '3.12']", ["x; python_version < '3.12'"]),
        ("[name @ git+https://host/x@main]", ["name @ git+https://host/x@main"]),
        ("[0003-train, checkpoints/it's.pt]", ["0003-train", "checkpoints/it's.pt"]),
        ("[]", []),
        ("null", []),
    ],
)
def test_lists_are_taken_as_typed(text: str, items: list[str], loaded: Load) -> None:
    assert typed_list(text) == items
    phase = loaded(f"phase.deps={text}").phase
    assert phase
    assert phase.deps == tuple(items)


@given(st.lists(st.text("abcXYZ019._-/ =<>~^", min_size=1), max_size=5))
def test_any_list_of_plain_items_comes_back(items: list[str]) -> None:
    plain = [stripped for item in items if (stripped := item.strip()) and not re.match("[<>=~!]", stripped)]
    assert typed_list(f"[{', '.join(plain)}]") == plain


def test_typed_paths_are_relative_to_the_current_folder(loaded: Load, tmp_path: Path) -> None:
    settings = loaded("paths.state=a/../my state", "paths.venv=~/v", cwd=tmp_path)
    assert settings.paths.state == tmp_path / "my state"
    assert settings.paths.venv == Path.home() / "v"


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a\\${x}", "$HOME", "\\"])
def test_typed_text_is_never_interpolated(text: str, loaded: Load) -> None:
    assert loaded(f"command={text}").command == text


# ------------------------------------------------------------------------------------ the quoted form


@given(TEXT)
@example("it's")
@example('a "b" \\" \\')
@example("${x} \\${y} \\\\${z}")
@example("a\\\\")
def test_the_quoted_form_works_for_any_text(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    value = OverridesParser.create().parse_override(in_grammar("x", text)).value()
    assert OmegaConf.to_container(OmegaConf.create({"x": value}), resolve=True) == {"x": text}


@pytest.mark.parametrize(
    "text", ["out/epoch=3-step=10.ckpt", "Hello, world", "李明", "it's", "~/x", "a\nb", "$(touch x)"]
)
def test_what_the_message_says_to_type_gives_this_text(text: str, loaded: Load) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(f"phase.jobs.train.args.x={text}")
    hint = next(hint for hint in caught.value.hints if "type: " in hint)
    (word,) = shlex.split(hint.partition("type: ")[2])
    assert argument(loaded(word)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", (1, 2)),
        ("1e3", 1000.0),
        ("a b", "a b"),
    ],
)
def test_plain_values_have_the_types_of_the_grammar(text: str, value: object, loaded: Load) -> None:
    assert argument(loaded(f"phase.jobs.train.args.x={text}")) == value


@given(TEXT)
@example("${batch_size}")
def test_text_in_a_configuration_value_is_what_yaml_says(text: str) -> None:
    typed = Typed((), (("command", text),))
    config = compose_cached()
    from runner.compose import set_verbatim

    for key, value in typed.verbatim:
        set_verbatim(config, key, value, Path("/"))
    assert config.command == (None if text == "null" else text)


def compose_cached(kept: list[Any] = []) -> Any:  # noqa: B006 one composition for all examples
    if not kept:
        kept.append(compose_config(Typed((), ()), Path("/")))
    return kept[0]


def test_a_phase_file_is_json_too(loaded: Load) -> None:
    assert json.loads(json.dumps(loaded().batch_size)) == 8


def test_strings_of_a_phase_file_arrive_as_they_are(research_log: Lab, tmp_path: Path) -> None:
    @settings(max_examples=15, phases=[Phase.explicit, Phase.generate])
    @given(st.lists(TEXT.filter(lambda text: "${" not in text), min_size=30, max_size=30))
    @example(
        ["???", "null", "true", "~", "1e3", "0x10", "2026-11-24", "yes", "a: b", "- a", "#", "\\", "&a", "*a"]
    )
    def arrive(texts: list[str]) -> None:
        args = {f"a{number}": text for number, text in enumerate(texts)}
        research_log.add_phase(args={**args, "all": texts}, env=args)
        words = ["phase=phase1", f"paths.research_log={research_log.log}"]
        phase = load(words, tmp_path, research_log.conf).phase
        assert phase
        assert dict(phase.jobs[0].args) == {**args, "all": tuple(texts)}
        assert dict(phase.jobs[0].env) == args

    arrive()

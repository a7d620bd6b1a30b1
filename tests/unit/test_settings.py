"""From a command line to settings: what is typed arrives, and every mistake is one message that helps."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from runner.config.compose import CommandLine, compose_config, in_grammar, typed_list
from runner.config.freeze import load
from runner.config.mistakes import problem_in
from runner.config.schema import CONF, GROUPS
from runner.errors import UsageError, choices
from runner.plan.settings import Settings
from tests.conftest import Runner
from tests.support import CHECKOUT, PYTHON, Lab, runner_env

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
    "status": ("'status'", "type: action=status", "A value with spaces stands in quotes"),
    "--instance=gpu_1x_a10": ("--instance", "Keys are typed without dashes: instance=…"),
    "--batch-size": ("--batch-size", "Keys are typed without dashes: batch_size=…"),
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
    "help": ("Type: python -m runner --help",),
    "phase1": ("'phase1'", "Type: phase=phase1"),
    "a b": ("cannot read 'a b'", "An argument is key=value"),
    "machine = x": ("machine = x: no spaces around =", "Type: machine=x"),
    "machine= x": ("machine= x: no spaces around =", "Type: machine=x"),
    "machine =x": ("machine =x: no spaces around =", "Type: machine=x"),
    "phase=phase1 action=train": (
        "cannot read",
        "these are 2 arguments, they stand in no quotes together: phase=phase1 action=train",
    ),
    "--dry-run": ("A plan is only shown", "leave --dry-run out"),
    "--yes": ("To run what is shown: confirm=ask",),
    "instance=a10": ("instance=a10", "Did you mean gpu_1x_a10?"),
    "instance=a100": ("Did you mean gpu_1x_a100_sxm4 or gpu_8x_a100?",),
    "args.tetx=3": ("args.tetx: there is no such key", "Did you mean args.text?", "+args.tetx="),
    "args.zzz=3": ("the job train has no argument zzz", "Arguments of train: text, ckpt", "+args.zzz="),
    "text=3": ("text is an argument of the job; type: args.text=3",),
    "text=a b": ("type: 'args.text=a b'",),
    "tetx=3": ("Did you mean args.text=3?",),
    "args.text=a=b": ("cannot read", """type: 'args.text="a=b"'"""),
    "+args.text=3": ("+args.text=3: + adds a key", "Type it without: args.text=3"),
    "batch_size=3": ("batch_size=3: no argument of the job train takes it", "{batch_size: ${batch_size}}"),
    "+phase.jobs.train.args.deep={a: {b: 1}}": ("phase.jobs.train.args.deep", "a list of those"),
    "+phase.jobs.train.env.A-B=1": ("A-B", "environment variable"),
    "phase.name=../../etc": ("phase.name", "folder in the research log"),
    "phase.name=phase9-none": ("phase9-none", "no such folder"),
    "phase.artifacts=[../x]": ("phase.artifacts", "inside the phase's folder"),
    "phase.artifacts=['ck/*.pt']": ("phase.artifacts: 'ck/*.pt' is a pattern", "Name the folder: ck/"),
    "phase.artifacts=['ck/step[0-9].pt']": ("is a pattern", "Name the folder: ck/"),
    "instance.name='a b'": ("instance.name", "letters, digits"),
    "instance.provider=lamda": ("instance.provider=lamda: there is no such provider", "Did you mean lambda?"),
    "~action": ("~action", "needs this key", "action=…"),
    "remote=${phase}": ("remote", "its keys can"),
    "batch_size=???": ("batch_size=???", "a value is wanted"),
    "+instance.overrides={a: 1}": ("instance.overrides.a", "a list of requirements"),
    "phase=null": ("phase=null: the name of one is wanted", "leave phase= out", "Choices: "),
    "instance=null": ("instance=null: the name of one is wanted", "Choices: "),
    "confirm=null": ("confirm=null: neither false, true, ask nor a plan's digest",),
    "output=null": ("output=null: it must be a text",),
    "+output=json": ("output is there already", "Type it without: output=json"),
    "+phase.batch_size=9": ("phase.batch_size is there already", "Type it without: phase.batch_size=9"),
    "+phase=phase1": ("phase takes no plus", "Type: phase=phase1"),
    "~batch_size": ("~batch_size", "needs this key", "batch_size=…"),
    "~batch_size=2": ("~batch_size", "needs this key"),
    "~remote.root": ("~remote.root", "needs this key"),
    "~phase": ("~phase", "leave phase=… out"),
    "phase.jobs=3": ("phase.jobs=3: it must be a mapping", "entrypoint, args, env, fold"),
    "phase.jobs.train=3": ("phase.jobs.train=3: it must be a section", "phase.jobs.train.entrypoint=…"),
    "phase.artifacts=3": ("phase.artifacts=3: it must be a list such as [a, b]",),
    "remote=7": ("remote=7: it must be a section with the keys root, venv, uv_install", "remote.root=…"),
    "cloud=null": ("cloud=null: it must be a section", "cloud.base_url=…"),
    "ssh=[1]": ("ssh=[1]: it must be a section",),
    "lines=x": ("lines=x: it must be a whole number or null",),
    "generation.temperature=hot": ("generation.temperature=hot: it must be a number",),
    "require_preflight=maybe": ("it must be true or false",),
    "doctor=${phase}": ("doctor", "its keys can"),
    "paths=${nope}": ("paths", "its keys can"),
    "phase.preflight=${ssh}": ("phase.preflight comes to", "it must be a section"),
    "hydra/launcher=nope": ("hydra/launcher=nope: there is no such hydra/launcher", "Choices: basic"),
    "paths.venv=~nobody-at-all/x": ("~nobody-at-all is nobody's home folder",),
    f"phase.name={'a' * 300}": ("aaa", "no file system takes a name that long"),
    f"phase.jobs.train.entrypoint={'a' * 300}": ("aaa", "no file system takes a name that long"),
    f"paths.state=/{'a' * 300}": ("aaa", "no file system takes a name that long"),
    "paths.venv=/a:b": ("paths.venv", "colon"),
    "paths.research_log=/tmp/-log": ("paths.research_log", "dash"),
    "paths.research_log=/nonexistent": ("/nonexistent",),
    "--confg-dir=x": ("unrecognized", "Did you mean --config-dir"),
    "--config-path=x": ("--config-path is not served here", "--config-dir"),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_one_message_that_helps(typed: str, research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase(args={"text": "x", "ckpt": "x"}, batch_size=2)
    typed_words = typed.split(" ") if re.search(" =|= ", typed) else [typed]
    done = runner_here("phase=phase1", "action=train", *research_log.args, *typed_words)
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
    "instance near": (
        '{"defaults": [{"override /instance": "gpu_1x_a11"}], "phase": {"name": "phase1-test"}}',
        ("phase1.yaml:2: ", "override /instance: gpu_1x_a11", "Did you mean gpu_1x_a10", "Choices: "),
    ),
    "unknown group": (
        '{"defaults": [{"override /instnce": "local"}], "phase": {"name": "phase1-test"}}',
        ("phase1.yaml:2: ", "there is no such group", "Did you mean instance?"),
    ),
    "no override": (
        '{"defaults": [{"/instance": "local"}], "phase": {"name": "phase1-test"}}',
        ("phase1.yaml:2: ", "Write: override /instance: local"),
    ),
    "defaults as a mapping": (
        '{"defaults": {"override /instance": "local"}, "phase": {"name": "phase1-test"}}',
        ("phase1.yaml:2: defaults: a list is wanted",),
    ),
    "key that is a boolean": (
        "phase:\n  name: phase1-test\n  jobs: {train: {entrypoint: train.py, args: {yes: 1}}}",
        ("phase1.yaml:4: phase.jobs.train.args.yes", "true or false", 'Put it in quotes: "yes":'),
    ),
    "key that is a number": (
        "phase:\n  name: phase1-test\n  jobs: {train: {entrypoint: train.py, env: {1: 1}}}",
        ("phase1.yaml:4: phase.jobs.train.env.1", "a number", 'Put it in quotes: "1":'),
    ),
    "key twice": ("phase: {name: phase1-test}\nphase: {}", ("phase1.yaml:3: phase is there twice",)),
    "key on top": ("phase: {name: phase1-test}\njobs: {}", ("phase1.yaml:3: jobs: there is no such key",)),
    "job as a text": (
        "phase: {name: phase1-test, jobs: {train: train.py}}",
        ("phase1.yaml:2: phase.jobs.train: it must be a section with the keys entrypoint",),
    ),
    "jobs as a list": ("phase: {name: phase1-test, jobs: [train]}", ("phase1.yaml:2: phase.jobs: it must",)),
    "a tab": (
        "phase:\n\tname: phase1-test",
        ("phase1.yaml:3: this is no YAML: a tab stands here, and YAML indents with spaces only",),
    ),
    "a line too far left": (
        "phase:\n    name: phase1-test\n  deps: []",
        ("phase1.yaml:4: this is no YAML: this line is indented less or more",),
    ),
    "a line too far right": (
        "phase:\n  name: phase1-test\n    deps: []",
        ("phase1.yaml:4: this is no YAML: either this line is indented more",),
    ),
    "no colon": ("phase:\n  name phase1-test\n  deps: []", ("this is no YAML:",)),
    "a list without its end": ("phase:\n  deps: [a\n  jobs: {}\n", ("] is missing",)),
    "dashes before an argument": (
        "phase: {name: phase1-test, jobs: {train: {entrypoint: train.py, args: {--lr: 3}}}}",
        ("phase.jobs.train.args.--lr: the dashes", "Write it without: lr:"),
    ),
    "a byte that is no text": ("phase: {name: \udcff}", ("phase1.yaml:1: the file cannot be read",)),
    "an alias in itself": (
        "phase: &a {name: x, jobs: {train: {entrypoint: a, args: &b {c: *b}}}}",
        ("phase1",),
    ),
    "a text for a number": (
        "phase: {name: phase1-test, batch_size: eight}",
        ("phase1.yaml:2: phase.batch_size: it must be a whole number or null",),
    ),
    "data without an end": ('{"phase": {"name": "phase1-x", "data": {"command": "x"}}}', ("phase.data",)),
    "not a mapping": ("[1, 2]", ("phase1.yaml:2: a mapping is wanted",)),
    "empty": ("", ("phase=phase1", "phase.name")),
}


@pytest.mark.parametrize("mistake", YAML_MISTAKES)
def test_a_mistake_in_a_phase_file_names_it(mistake: str, research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    text, expected = YAML_MISTAKES[mistake]
    file = research_log.conf / "phase/phase1.yaml"
    file.write_text("# @package _global_\n" + text, errors="surrogateescape")
    action = "setup" if "verb" in mistake else "train"
    done = runner_here("phase=phase1", f"action={action}", *research_log.args)
    assert done.exit_code == 64, done
    for words in expected:
        assert words in done.stderr, done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("", "must be: # @package _global_"),
        ("# Does it learn?\n# @package _global_\n", "move it to the top"),
        ("\ufeff# @package _global_\n", "byte order mark"),
        ("# @package phase\n", "must be: # @package _global_"),
    ],
)
def test_a_phase_file_without_its_first_line_says_which_one(
    head: str, expected: str, research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase()
    file = research_log.conf / "phase/phase1.yaml"
    file.write_text(head + file.read_text().partition("\n")[2])
    done = runner_here("phase=phase1", "action=train", *research_log.args)
    assert done.exit_code == 64, done
    assert "phase1.yaml:1: " in done.stderr
    assert expected in done.stderr


def test_a_folder_typed_as_the_phase_is_answered_with_its_file(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase("phase1-test", choice="first")
    for typed in ("phase1-test", "phase1"):
        done = runner_here(f"phase={typed}", *research_log.args)
        assert done.exit_code == 64, done
        assert "Type: phase=first" in done.stderr


def test_a_folder_that_no_file_declares_is_answered_with_the_file_to_write(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase("phase2-other")
    (research_log.log / "phase1-idea").mkdir()
    (research_log.log / "phase1-idea/PLAN.md").touch()
    done = runner_here("phase=phase1", *research_log.args)
    assert done.exit_code == 64, done
    written = [line.removeprefix("    ") for line in done.stderr.splitlines() if line.startswith("    ")]
    (research_log.conf / "phase/phase1.yaml").write_text("\n".join(written))
    (research_log.log / "phase1-idea/train.py").touch()
    assert "conf/phase/phase1.yaml:" in done.stderr
    assert runner_here("phase=phase1", "action=train", *research_log.args).exit_code == 0


def test_discover_names_a_broken_file_and_other_verbs_do_not_mind(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase()
    broken = research_log.conf / "phase/phase2.yaml"
    broken.write_text("# @package _global_\nphase:\n  name: [")
    for output in ("text", "json"):
        done = runner_here(f"output={output}", *research_log.args)
        assert (done.exit_code, done.stderr.count("conf/phase/phase2.yaml:3: ")) == (0, 1), done
    assert done.documents[0]["current"] == "phase1-test"
    assert not runner_here("phase=phase1", "action=train", *research_log.args).stderr


# A line of a phase's YAML → what the message must say. YAML 1.1 reads each as something else, in silence.
LOST_WORDS = {
    "artifacts: [2024_01]": ("phase.artifacts: YAML reads 2024_01 as the number 202401", '"2024_01"'),
    "artifacts:\n    - 2024_01": ("phase1.yaml:6: phase.artifacts", 'Write it in quotes: "2024_01"'),
    "inputs: [007]": ("phase.inputs: YAML reads 007 as the number 7", '"007"'),
    "source: {git: x, ref: 12e4567}": ("phase.source.ref: YAML reads 12e4567 as the number inf", '"12e4567"'),
    "source: {git: x, ref: 0123456}": ("phase.source.ref: YAML reads 0123456 as the number 42798",),
    "data: {command: yes, done: x}": ("phase.data.command: YAML reads yes as true", '"yes"'),
    "preflight: {packages: {x: 3.10}}": ("phase.preflight.packages.x", "as the number 3.1", '"3.10"'),
    "jobs: {train: {entrypoint: train.py, env: {OMP_NUM_THREADS: 010}}}": (
        "phase.jobs.train.env.OMP_NUM_THREADS: YAML reads 010 as the number 8",
        'Write it in quotes: "010"',
    ),
    "jobs: {train: {entrypoint: train.py, env: {A: off}}}": ("env.A: YAML reads off as false",),
    "jobs: {train: {entrypoint: train.py, args: {lang: no}}}": (
        "phase.jobs.train.args.lang: YAML reads no as false",
        'Write it in quotes: "no", or false for the flag',
    ),
    "jobs: {train: {entrypoint: train.py, args: {x: [1, 2024_01]}}}": (
        "args.x: YAML reads 2024_01 as the number 202401",
        'Write it in quotes: "2024_01", or 202401 for the number',
    ),
    "jobs: {train: {entrypoint: train.py, args: {at: 12:30:00}}}": ("args.at", "as the number 45000"),
    "jobs: {train: {entrypoint: train.py, args: {commit: 0x1f}}}": ("args.commit", "as the number 31"),
    "jobs: {train: {entrypoint: train.py, args: {commit: 12e4567}}}": ("args.commit", "as the number inf"),
    "batch_size: 010": ("phase.batch_size: YAML reads 010 as the number 8", "the number that is meant: 8"),
}


@pytest.mark.parametrize("line", LOST_WORDS)
def test_a_word_that_yaml_would_change_is_refused_with_the_quotes_to_add(
    line: str, research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase()
    file = research_log.conf / "phase/phase1.yaml"
    file.write_text(f"# @package _global_\nphase:\n  name: phase1-test\n\n  {line}\n")
    typed = ("phase=phase1", "action=train", *research_log.args)
    for words in (typed, (*typed, "hydra.verbose=true"), ("--cfg", "job", *typed)):
        done = runner_here(*words)
        assert (done.exit_code, done.stdout) == (64, ""), done
        for said in ("phase1.yaml:", *LOST_WORDS[line]):
            assert said in done.stderr, done
    assert LOST_WORDS[line][0] in runner_here(*research_log.args).stderr  # discover warns of it


def test_a_word_of_an_instance_file_that_yaml_would_change_is_refused(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase()
    (research_log.conf / "instance").mkdir()
    (research_log.conf / "instance/mine.yaml").write_text("provider: lambda\nname: gpu\npython: 3.10\n")
    done = runner_here("phase=phase1", "instance=mine", *research_log.args)
    assert done.exit_code == 64, done
    assert "instance/mine.yaml:3: python: YAML reads 3.10 as the number 3.1" in done.stderr


def test_words_that_arrive_as_they_stand_need_no_quotes(research_log: Lab, tmp_path: Path) -> None:
    research_log.add_phase()
    (research_log.conf / "phase/phase1.yaml").write_text("""# @package _global_
phase:
  name: phase1-test
  artifacts: [2024-01-05, 123, 1.5, !!str 010]
  source: {git: x, ref: 1234567}
  jobs:
    train:
      entrypoint: train.py
      args: {lr: 1e-4, eps: 1.50, n: -3, big: 1e3, top: .inf, do: true, not: False, none: null, who: "no"}
      env: {A: 10, B: true, C: 1.5, D: "010", E: null}
""")
    phase = load(
        ["phase=phase1", f"paths.research_log={research_log.log}"], tmp_path, research_log.conf
    ).phase
    assert phase and phase.source
    assert (phase.artifacts, phase.source.ref) == (("2024-01-05", "123", "1.5", "010"), "1234567")
    assert dict(phase.jobs[0].env) == {"A": "10", "B": "true", "C": "1.5", "D": "010", "E": None}
    assert list(dict(phase.jobs[0].args).values()) == [
        *(0.0001, 1.5, -3, 1000.0, float("inf"), True, False, None, "no")
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("phase.source={git: x, ref: y}", "y"),
        ("phase.source.ref=12e4567", "12e4567"),
        ("phase.source.ref=1_000", "1_000"),
    ],
)
def test_a_typed_text_is_no_number(typed: str, expected: str, research_log: Lab, tmp_path: Path) -> None:
    research_log.add_phase(source={"git": "x", "ref": "y"}, artifacts=["a"])
    words = ["phase=phase1", f"paths.research_log={research_log.log}"]
    phase = load([*words, typed, "phase.artifacts=[2024_01, b]"], tmp_path, research_log.conf).phase
    assert phase and phase.source
    assert (phase.source.ref, phase.artifacts) == (expected, ("2024_01", "b"))


# ------------------------------------------------------------------------------------ one's own folder


def test_a_file_of_ones_own_wins_over_a_shipped_one_for_every_verb(
    research_log: Lab, runner_here: Runner
) -> None:
    folder = research_log.add_phase("phase11-mine", args={"x": "of my own"})
    (folder / "PLAN.md").touch()
    typed = ("phase=phase11", "action=train", *research_log.args)
    for more in ((), ("hydra.verbose=true",)):
        plan = runner_here(*typed, *more, "output=json").plan
        assert plan["phase"] == "phase11-mine"
        assert "of my own" in plan["steps"][-1]["command"]
    assert "name: phase11-mine" in runner_here("--cfg", "job", *typed).stdout
    shown = runner_here("output=json", *research_log.args).plan
    assert "phase=phase11 action=train" in shown["next"]
    assert shown["current"] == "phase11-mine"


def test_an_instance_of_ones_own_wins_too(research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    (research_log.conf / "instance").mkdir()
    (research_log.conf / "instance/gpu_1x_a10.yaml").write_text("provider: lambda\nname: mine\n")
    done = runner_here("instance=gpu_1x_a10", "--cfg", "job", "-p", "instance", *research_log.args)
    assert "name: mine" in done.stdout, done


def test_the_top_file_of_another_program_is_none_of_ours(research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    (research_log.conf / "config.yaml").write_text("defaults: [nope]\n")
    for words in (("action=train",), ("--cfg", "job")):
        assert runner_here("phase=phase1", *words, *research_log.args).exit_code == 0


def test_of_twins_discover_does_not_propose_the_file_of_the_other(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase("phase3-a")
    (research_log.log / "phase3-b").mkdir()
    (research_log.log / "phase3-b/PLAN.md").touch()
    shown = runner_here("output=json", *research_log.args).plan
    assert (shown["current"], shown["next"].rpartition("/")[2]) == ("phase3-b", "phase3-b.yaml")
    told = runner_here("phase=phase3-b", *research_log.args).stderr
    assert "conf/phase/phase3-b.yaml:" in told


# ------------------------------------------------------------------------------------ typed short


def test_an_argument_typed_short_makes_the_same_plan_and_is_told_short(
    research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase(args={"lr": 1, "text": "x"})
    typed = ("phase=phase1", "action=train", *research_log.args)
    for sign, name in (("", "lr=3"), ("++", "lr=3"), ("+", "new=3"), ("~", "lr")):
        short = runner_here(f"{sign}args.{name}", *typed, "output=json").plan
        full = runner_here(f"{sign}phase.jobs.train.args.{name}", *typed, "output=json").plan
        assert short["digest"] == full["digest"]
    line = next(w for w in runner_here(*typed, "args.lr=3").stdout.splitlines() if "confirm=p" in w)
    assert " args.lr=3 " in line
    assert "    lr: 7" in runner_here("--cfg", "job", *typed, "args.lr=7").stdout


def test_an_argument_typed_short_is_swept(research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase(args={"lr": 1})
    typed = ("phase=phase1", "action=train", *research_log.args)
    members = runner_here("-m", "args.lr=0.1,0.3", *typed, "output=json").plan["members"]
    assert [member["overrides"] for member in members] == [
        ["phase.jobs.train.args.lr=0.1"],
        ["phase.jobs.train.args.lr=0.3"],
    ]
    for wrong, words in (("lr=1,2", "type: args.lr=1,2"), ("args.lrr=1,2", "Did you mean args.lr?")):
        done = runner_here("-m", wrong, *typed)
        assert (done.exit_code, words in done.stderr) == (64, True), done


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("action=setup", "args.lr: action=setup is no job of the phase"),
        ("action=trian", "Did you mean train?"),
        ("output=text", "args.lr=3: args.… are those of a job, and action= names none"),
    ],
)
def test_an_argument_without_its_job_is_refused(
    action: str, words: str, research_log: Lab, runner_here: Runner
) -> None:
    research_log.add_phase(args={"lr": 1})
    done = runner_here("phase=phase1", action, "args.lr=3", *research_log.args)
    assert (done.exit_code, words in done.stderr) == (64, True), done


def test_a_batch_size_that_nothing_takes_is_refused_in_a_sweep_too(
    research_log: Lab, runner_here: Runner
) -> None:
    takes = {
        "entrypoint": "train.py",
        "args": {"b": "${phase.jobs.train.env.B}"},
        "env": {"B": "${batch_size}"},
    }
    jobs = {"train": takes, "other": {"entrypoint": "train.py", "args": {"b": "${phase.batch_size}"}}}
    research_log.add_phase(jobs=jobs, batch_size=8)
    typed = ("phase=phase1", *research_log.args)
    assert runner_here(*typed, "action=train", "batch_size=3").exit_code == 0
    assert runner_here(*typed, "action=other", "batch_size=null", "phase.batch_size=null").exit_code == 0
    assert (
        runner_here(*typed, "action=sync", "batch_size=3").exit_code == 0
    )  # told what comes next, it may stay
    for words in (("batch_size=3",), ("-m", "batch_size=3,4")):
        done = runner_here(*typed, "action=other", *words)
        assert (done.exit_code, "no argument of the job other takes it" in done.stderr) == (64, True), done


@pytest.mark.parametrize("choice", ["phase15", "phase15-mine"])
def test_a_number_is_the_phase_of_that_number(choice: str, research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase("phase15-test", choice=choice)
    done = runner_here("phase=15", "action=train", *research_log.args)
    assert done.exit_code == 0, done
    assert f"phase={choice} action=train" in done.stdout


def test_a_file_with_another_ending_is_told(research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    (research_log.conf / "phase/phase2.yml").write_text("# @package _global_\nphase: {name: phase2-x}\n")
    told = "conf/phase/phase2.yml is not read: rename it to phase2.yaml"
    assert told in runner_here(*research_log.args).stderr
    done = runner_here("phase=phase2", *research_log.args)
    assert (done.exit_code, told in done.stderr) == (64, True), done


def test_several_machines_are_no_machine_of_that_name(research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase(args={"x": 1})
    typed = ("phase=phase1", "action=train", "instance=gpu_1x_a10", "machine=a,b", *research_log.args)
    done = runner_here("-m", "phase.jobs.train.args.x=1,2", *typed)
    assert (done.exit_code, "A sweep over machine is not possible" in done.stderr) == (64, True), done
    done = runner_here(*typed)
    assert (done.exit_code, "machine=a,b: the name or id of one machine" in done.stderr) == (64, True), done


def test_nothing_is_wrong_with_the_files_that_ship() -> None:
    for group in GROUPS:
        for file in sorted((CONF / group).glob("*.yaml")):
            assert problem_in(file, group, (CONF,), CONF) is None


def test_only_what_is_nearly_as_near_is_offered_too() -> None:
    keys = ("batch_size", "phase.batch_size", "machine", "lines")
    assert choices("batchsize", keys, "Keys")[0] == "Did you mean batch_size?"
    assert choices("maschine", keys, "Keys")[0] == "Did you mean machine?"


def test_a_python_that_nobody_set_up_is_told_how(home: Path) -> None:
    code = "import sys; sys.modules['hydra'] = None; from runner.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=CHECKOUT, env=runner_env(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 64, done
    assert "make demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_part_of_the_program_says_how_to_start_it(home: Path) -> None:
    file = CHECKOUT / "runner/cli.py"
    done = subprocess.run(
        ["python3", file], cwd=home, env=runner_env(home), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "python -m runner" in done.stderr, done.stdout) == (64, True, ""), done


def test_help_is_no_verb_but_a_flag(runner_here: Runner) -> None:
    done = runner_here("action=help")
    assert (done.exit_code, "--help" in done.stderr) == (64, True), done


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


def test_a_declared_batch_size_is_not_taken_away(loaded: Load) -> None:
    with pytest.raises(UsageError, match=r"batch_size=null: it must be 1 or more; the phase declares 8"):
        loaded("batch_size=null")
    assert loaded("phase.batch_size=null").batch_size is None  # then the phase declares none


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
    typed = CommandLine((), (("command", text),))
    config = compose_cached()
    from runner.config.compose import set_verbatim

    for key, value in typed.raw:
        set_verbatim(config, key, value, Path("/"))
    assert config.command == (None if text == "null" else text)


def compose_cached(kept: list[Any] = []) -> Any:  # noqa: B006 one composition for all examples
    if not kept:
        kept.append(compose_config(CommandLine((), ()), Path("/")))
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

"""Leaving Hydra's own section out of a composition changes nothing of ours."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from runner.config import fast_compose
from runner.config.compose import parsed
from runner.config.fast_compose import compose_by_hydra, compose_fast, composed, searched_first, yaml_mapping
from runner.config.freeze import load
from runner.errors import UsageError
from tests.support import Lab

COMMAND_LINES = {
    "nothing": [],
    "a phase that overrides its instance": ["phase=phase12"],
    "both typed": ["phase=phase12", "instance=local", "generation=greedy"],
    "values": ["phase=phase11", "batch_size=8", "action=train", "generation.temperature=0.1"],
    "an added key": ["phase=phase11", "+phase.jobs.train.args.new=3"],
    "an added or changed key": ["phase=phase11", "++phase.jobs.train.args.lr=[1,2]"],
    "a deleted key": ["phase=phase11", "~phase.jobs.train.args.lr"],
    "a dictionary": ["phase=phase11", "++phase.jobs.train.env={A: 1, B: null}"],
    "quotes and an interpolation": ["machine='a, ${action}'", "lines=3"],
    "the last of two": ["phase=phase12", "phase=phase11"],
}


def structs(config: Any) -> list[bool | None]:
    """The flag that closes a node, for every node; reading a frozen configuration depends on it."""
    nodes = [config._get_flag("struct")]
    for key in config if isinstance(config, DictConfig) else ():
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            nodes += structs(node)
    return nodes


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_the_same_as_hydra_composes(case: str) -> None:
    overrides = parsed(COMMAND_LINES[case])
    short, full = compose_fast(overrides).config, compose_by_hydra(COMMAND_LINES[case])
    assert OmegaConf.to_yaml(short) == OmegaConf.to_yaml(full)
    assert list(short) == list(full)
    assert structs(short) == structs(full)


def test_the_same_with_a_folder_of_ones_own(research_log: Lab) -> None:
    research_log.add_phase(args={"lr": "${batch_size}"}, batch_size=8)
    with searched_first(research_log.conf):
        short = compose_fast(parsed(["phase=phase1"])).config
        assert OmegaConf.to_yaml(short) == OmegaConf.to_yaml(compose_by_hydra(["phase=phase1"]))
    assert short.phase.name == "phase1-test"


@pytest.mark.parametrize(
    "words",
    [["hydra.run.dir=x"], ["hydra/job_logging=disabled"], ["+hydra.job.env_set.A=b"]],
)
def test_hydras_own_keys_are_composed_by_hydra(words: list[str]) -> None:
    assert composed(parsed(words)).config == compose_by_hydra([])


def test_a_phase_may_choose_among_hydras_own_groups(research_log: Lab) -> None:
    research_log.add_phase()
    file = research_log.conf / "phase/phase1.yaml"
    file.write_text('# @package _global_\n{"defaults": [{"override /hydra/job_logging": "disabled"}]}')
    with pytest.raises(UsageError, match=r"phase\.name"):  # composed, and then what is ours to say
        load(["phase=phase1"], Path.cwd(), research_log.conf)


def test_an_inside_of_hydras_that_changed_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(*_: Any) -> DictConfig:
        raise AttributeError("ConfigLoaderImpl has no _compose_config_from_defaults_list")

    monkeypatch.setattr(fast_compose, "compose_fast", changed)
    assert composed(parsed(["phase=phase12"])).config == compose_by_hydra(["phase=phase12"])


WORDS = (
    *("1e3", "1_000", "010", "0x1f", "12:30:00", "12e4567", ".inf", "yes", "No", "~", "null", "2026-11-24"),
    *("3.10", "[a, 1]", "{a: no}", "'x'", '"\\u674e"', "!!str 010", "${phase}", "x # y", "-1"),
)


@pytest.mark.parametrize("word", WORDS)
def test_a_file_is_read_as_omegaconf_reads_it(word: str) -> None:
    text = f"a: {word}\nb:\n  - {word}\n"
    assert repr(yaml_mapping(text)) == repr(OmegaConf.create(text))


@given(st.dictionaries(st.text("abc"), st.text("0123456789_.:eExo+-infayes", max_size=8)))
def test_any_plain_word_is_read_as_omegaconf_reads_it(words: dict[str, str]) -> None:
    text = "".join(f"k{name}: {word}\n" for name, word in words.items()) or "{}"
    try:
        expected = OmegaConf.create(text)
    except Exception:
        return
    assert repr(yaml_mapping(text)) == repr(expected)

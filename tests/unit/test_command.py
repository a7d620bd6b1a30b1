"""Commands: a word is quoted once as it enters, and nothing else ever formats a word into a command."""

import shlex
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.plan.command import Command, HomePath, Var, below, home_or_path, quote, sh

WORD = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
WORDS = st.lists(WORD, min_size=1)


@given(WORDS)
def test_the_words_come_back_from_the_text(words: list[str]) -> None:
    assert shlex.split(sh(*words).text) == words


@given(WORDS, WORD)
def test_a_nested_command_is_one_word(words: list[str], alias: str) -> None:
    inner = sh(*words)
    assert shlex.split(inner.over_ssh(sh("ssh", "-T"), alias).text) == ["ssh", "-T", alias, inner.text]


def test_a_word_with_nul_is_refused() -> None:
    with pytest.raises(UsageError, match="NUL"):
        sh("echo", "a\0b")


def test_half_a_character_is_refused_and_a_byte_of_a_name_is_not() -> None:
    with pytest.raises(UsageError, match="half of a character"):
        sh("echo", "a\ud800b")
    assert sh("cat", "\udcff.txt").argv == ("cat", "\udcff.txt")


def test_numbers_and_paths_are_words() -> None:
    assert sh("run", 3, 0.5, PurePosixPath("a b")).text == "run 3 0.5 'a b'"


def test_a_secret_is_named_and_never_written() -> None:
    command = sh("curl", "-H", Var("TOKEN"))
    assert command.text == 'curl -H "${TOKEN}"'
    assert command.argv == ()  # only a shell can know its value


def test_argv_is_there_while_no_shell_is_needed() -> None:
    assert sh("git", "-C", "a b").argv == ("git", "-C", "a b")
    assert (sh("a") & sh("b")).argv == ()


def test_within_runs_the_command_or_nothing() -> None:
    assert sh("true").within("a b").text == "cd 'a b' && true"


def test_a_tilde_is_left_to_the_shell_of_the_machine() -> None:
    assert sh("cd", home_or_path("~/a b")).text == "cd ~/'a b'"
    assert sh("cd", home_or_path("~")).text == "cd ~"
    assert sh("cd", home_or_path("/x/~y")).text == "cd '/x/~y'"
    assert sh("cd", below(HomePath("Fractal"), "a b", "c")).text == "cd ~/'Fractal/a b/c'"


def test_a_logged_command_tells_where_its_log_is() -> None:
    command = sh("true").logged("a b/log")
    assert command.log == "a b/log"
    assert "tee -ia 'a b/log'" in command.text


def test_commands_are_equal_when_their_text_is() -> None:
    assert sh("a", "b") == Command("a b")


@pytest.mark.parametrize("word", ["", "~", "$x", "`x`", "!x", "a\nb", "-", "'", '"', "李明"])
def test_one_word_stays_one(word: str) -> None:
    assert shlex.split(quote(word)) == [word]

"""A multirun command line becomes the members that Hydra would make of it, or one message."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.freeze import load
from runner.config.multirun import Sweep, load_sweep
from runner.errors import UsageError

BASE = ("phase=phase12", "action=generate", "instance=local")


def swept(*words: str) -> Sweep:
    return load_sweep([*BASE, *words], Path("/"))


def overrides(sweep: Sweep) -> list[tuple[str, ...]]:
    return [member.overrides for member in sweep.members]


def test_the_last_axis_varies_fastest_and_numbers_count_on() -> None:
    sweep = swept("generation.temperature=0.2,0.7", "generation.n=1,4")
    assert overrides(sweep) == [
        (f"generation.temperature={t}", f"generation.n={n}") for t, n in product((0.2, 0.7), (1, 4))
    ]
    assert [member.number for member in sweep.members] == [0, 1, 2, 3]
    assert [dict(m.job.args)["temperature"] for m in sweep.members] == [0.2, 0.2, 0.7, 0.7]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("generation.seed=range(3)", [0, 1, 2]),
        ("generation.seed=range(0,10,5)", [0, 5]),
        ("generation.seed=choice(5,7)", [5, 7]),
        ("generation.seed=4", [4]),
    ],
)
def test_hydras_grammar_of_sweeps(word: str, values: list[int]) -> None:
    assert [dict(member.job.args)["seed"] for member in swept(word).members] == values


def test_groups_are_swept_by_name_and_by_glob() -> None:
    named = swept("generation=greedy,nucleus")
    assert [dict(member.job.args)["temperature"] for member in named.members] == [0.0, 1.0]
    assert overrides(swept("generation=glob(*, exclude=d*)")) == [
        ("generation=best_of_n",),
        ("generation=greedy",),
        ("generation=nucleus",),
    ]


AXES = st.fixed_dictionaries(
    {},
    optional={
        "generation": st.sampled_from(["greedy", "greedy,nucleus", "best_of_n"]),
        "generation.temperature": st.sampled_from(["0", "0.5,1", "0.1,0.2,0.3"]),
        "batch_size": st.sampled_from(["8", "8,16"]),
        "phase.batch_size": st.sampled_from(["3", "3,4"]),
        "+phase.jobs.generate.args.extra": st.sampled_from(["1", "a,b", "null,true"]),
        "phase.jobs.generate.args.model": st.sampled_from(["null", "a,'b, c'", "'${batch_size}',x"]),
        "phase.jobs.generate.args": st.sampled_from(["{seed:1},{seed:2}"]),
    },
)


@given(AXES)
@settings(max_examples=8)
def test_a_member_is_what_its_overrides_compose_alone(axes: dict[str, str]) -> None:
    words = [f"{key}={values}" for key, values in axes.items()]
    fixed = [word for word in words if "," not in word]
    members = swept(*words).members
    for member in members[:: max(1, len(members) // 4)]:  # a composition takes 50 ms
        alone = load([*BASE, *fixed, *member.overrides], Path("/"))
        assert alone.phase is not None
        assert member.job == alone.phase.job("generate")


@pytest.mark.parametrize(
    "word",
    (
        *("action=train,generate", "output=text,json", "instance=local,gpu_1x_a10", "confirm=true,false"),
        *("instance.name=a,b", "phase=phase11,phase12"),
    ),
)
def test_what_one_plan_cannot_hold_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"A sweep over {word.partition('=')[0]}"):
        load_sweep(["phase=phase12", "action=generate", word], Path("/"))


def test_all_invalid_members_are_told_together() -> None:
    with pytest.raises(UsageError) as told:
        swept("generation.temperature=0.2,-1,warm", "generation=greedy,gready")
    assert told.value.exit_code == 64
    assert told.value.message == "5 of 6 members are invalid; nothing is planned:"
    text = "\n".join(told.value.hints)
    assert "generation=gready: there is no such generation" in text
    assert "generation.temperature=-1.0: it must be 0 or more" in text
    assert "generation.temperature=warm" in text and "Did you mean greedy?" in text
    assert sum(hint.startswith("generation.temperature=") for hint in told.value.hints) == 5


def test_a_mistake_that_all_members_share_is_told_once() -> None:
    with pytest.raises(UsageError, match=r"^generation\.temprature: there is no such key$"):
        swept("generation.temprature=0.1,0.2")


@pytest.mark.parametrize(
    "word",
    [
        "generation.temperature=interval(0,1)",
        "generation.seed=shuffle(range(3))",
        "generation.seed=glob(*)",
        "generation=glob(x*)",
    ],
)
def test_what_has_no_members_says_so(word: str) -> None:
    with pytest.raises(UsageError):
        swept(word)


def test_resume_takes_no_sweep() -> None:
    with pytest.raises(UsageError, match="takes no -m"):
        swept("resume=3")

"""Folding loses no member, repeats none, keeps the order; any value survives configs.jsonl."""

import json

from hypothesis import given
from hypothesis import strategies as st

from runner.plan.fold import SweptJob, config_line, fold, member_of
from runner.plan.settings import Job

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = SCALARS | st.lists(st.text() | st.integers(), max_size=3).map(tuple)
KEYS = st.sampled_from(["model", "dtype", "temperature", "n", "odd key"])
JOBS = st.builds(
    Job,
    name=st.just("generate"),
    entrypoint=st.sampled_from(["generate.py", "other.py"]),
    args=st.dictionaries(KEYS, VALUES).map(lambda args: tuple(args.items())),
    env=st.sampled_from([(), (("A", "1"),)]),
    fold=st.sampled_from([None, (), ("model",), ("model", "dtype")]),
)
SWEEPS = st.lists(JOBS, max_size=30).map(
    lambda jobs: [SweptJob(number, (f"seed={number}",), job) for number, job in enumerate(jobs)]
)


@given(SWEEPS)
def test_every_member_is_in_one_process_and_in_order(members: list[SweptJob]) -> None:
    processes = fold(members)
    numbers = [[member.number for member in process.members] for process in processes]
    assert sorted(number for group in numbers for number in group) == list(range(len(members)))
    assert all(group == sorted(group) for group in numbers)
    assert [group[0] for group in numbers] == sorted(group[0] for group in numbers)
    assert [process.number for process in processes] == list(range(len(processes)))


@given(SWEEPS)
def test_members_share_a_process_when_script_environment_and_load_agree(members: list[SweptJob]) -> None:
    for process in fold(members):
        assert len({(m.job.entrypoint, m.job.env, repr(m.load)) for m in process.members}) == 1
        assert len(process.members) == 1 or process.is_folded


@given(JOBS)
def test_any_value_survives_configs_jsonl(job: Job) -> None:
    member = SweptJob(7, ("a=b",), job)
    line = config_line(member, 0)
    assert "\n" not in line and line.isascii()
    back = member_of(line, job)
    given_args = {key: value for key, value in job.args if value is not None}
    assert dict(back.job.args) == given_args
    assert repr(sorted(dict(back.job.args).items())) == repr(sorted(given_args.items()))
    assert (back.number, back.overrides, back.job.env) == (7, ("a=b",), job.env)
    read = json.loads(line)
    assert {**read["load"], **read["values"]}.keys() == given_args.keys()


def test_what_a_script_would_tell_apart_is_not_folded() -> None:
    def job(value: object) -> Job:
        return Job("generate", "generate.py", args=(("model", value),), fold=("model",))  # type: ignore[arg-type]

    members = [SweptJob(i, (), job(value)) for i, value in enumerate((1, True, 1.0, "1", None, 1))]
    assert [[m.number for m in process.members] for process in fold(members)] == [[0, 5], [1], [2], [3], [4]]

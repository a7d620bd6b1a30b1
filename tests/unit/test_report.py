"""What a report says of a sweep: its axes, its best member, its seconds, each from the members alone."""

from pathlib import Path
from typing import Any

from runner.plan.fold import SweptJob
from runner.plan.settings import Job, Value
from runner.report.report import MemberReport, Report, axes_of, margin


def member(number: int, values: dict[str, Value], process: int = 0, **figures: float) -> MemberReport:
    return MemberReport(number, process, (), values, figures)


def report(*members: MemberReport, **more: Any) -> Report:
    axes = tuple(key for key in members[0].values if len({repr(m.values[key]) for m in members}) > 1)
    return Report("phase1", "0001-generate", "generate", Path(), members, axes, **more)


def test_axes_are_what_differs_in_the_order_typed() -> None:
    args = [{"a": a, "b": b, "same": 1, "via_group": a} for a in (1, 2) for b in (3, 4)]
    configs = [
        SweptJob(k, (f"x.b={v['b']}", f"x.a={v['a']}"), Job("generate", "g.py", args=tuple(v.items())))
        for k, v in enumerate(args)
    ]
    assert axes_of(configs) == ("b", "a", "via_group")
    assert axes_of(configs[:1]) == ()


def test_the_best_has_the_highest_vote_and_of_equals_the_quickest() -> None:
    told = report(
        member(0, {"n": 1}, majority_vote=0.9, pass_at_1=0.99, generation_seconds=1),
        member(1, {"n": 4}, majority_vote=0.95, pass_at_1=0.5, generation_seconds=4),
        member(2, {"n": 8}, majority_vote=0.95, pass_at_1=0.5, generation_seconds=3),
        member(3, {"n": 16}),
    )
    assert told.best is told.members[2]
    assert [m.state for m in told.members] == ["finished", "finished", "finished", "missing"]


def test_without_known_figures_a_jobs_own_are_shown() -> None:
    told = report(
        member(0, {"lr": 1}, accuracy=0.5, seconds=3, exit_code=0), member(1, {"lr": 2}, accuracy=0.6)
    )
    assert told.quality == ("accuracy",) and told.best is told.members[1]
    nothing = report(
        member(0, {"lr": 1}, seconds=3, exit_code=0), member(1, {"lr": 2}, seconds=4, exit_code=0)
    )
    assert nothing.quality == () and nothing.best is None


def test_a_grid_has_every_combination_once() -> None:
    grid = [member(k, {"a": a, "b": b}) for k, (a, b) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)])]
    assert report(*grid).is_grid
    assert not report(*grid[:3]).is_grid
    assert not report(*grid[:3], grid[0]).is_grid
    assert report(member(0, {"a": 1}), member(1, {"a": 1.0}), member(2, {"a": True})).is_grid


def test_a_model_is_loaded_once_in_each_process() -> None:
    told = report(
        member(0, {"m": "a"}, 0, load_seconds=18, generation_seconds=2),
        member(1, {"m": "a"}, 0, load_seconds=18, generation_seconds=3),
        member(2, {"m": "b"}, 1, load_seconds=20, generation_seconds=4),
        seconds=1800.0,
        usd_per_hour=2.0,
    )
    assert (told.load_s, told.generation_s, told.usd) == (38, 9, 1.0)


def test_a_share_has_the_margin_of_its_count() -> None:
    half = margin(member(0, {}, majority_vote=0.5, num_nodes=100), "majority_vote")
    assert half is not None and abs(half - 0.098) < 1e-9
    assert margin(member(0, {}, majority_vote=0.5), "majority_vote") is None
    assert margin(member(0, {}, loss=2.5, num_nodes=100), "loss") is None

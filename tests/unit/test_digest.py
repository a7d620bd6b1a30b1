"""The digest: named by what will be done and by what it rests on, and by nothing else."""

from dataclasses import replace

import pytest

from runner.plan.command import sh
from runner.plan.plan import DIGEST, Effect, Plan, Request, Step, Target

PLAN = Plan(
    action="train",
    effect=Effect.CHANGE,
    target=Target("lambda", "lambda", "gpu_1x_a10", 1.29),
    steps=(Step("start", sh("true"), reason="a reason"),),
    phase="phase1-x",
    basis=(("code", "abc"),),
    run="0001-train",
)


def test_the_form() -> None:
    assert DIGEST.fullmatch(PLAN.digest)


def test_it_is_the_same_for_ever() -> None:
    # A digest that a person wrote down yesterday holds today: changing this line breaks that promise.
    assert PLAN.digest == "p579e446e53f4"


@pytest.mark.parametrize(
    "changed",
    [
        {"reason": "why"},
        {"notes": ("a note",)},
        {"monitor": "tail -f x"},
        {"details": (("code", "new"),)},
        {"run_folder": "/elsewhere/0001-train"},
        {"artifacts": ("checkpoints/",)},
        {"steps": (Step("start", sh("true"), reason="another reason"),)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_it_does_not_cover(changed: dict[str, object]) -> None:
    assert replace(PLAN, **changed).digest == PLAN.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"action": "generate"},
        {"phase": "phase2-x"},
        {"target": Target("other", "lambda", "gpu_1x_a10", 1.29)},
        {"target": Target("lambda", "lambda", "gpu_1x_gh200", 1.29)},
        {"target": Target("lambda", "lambda", "gpu_1x_a10", 1.30)},
        {"steps": (Step("start", sh("false")),)},
        {"steps": (Step("start", sh("true")), Step("start", sh("true")))},
        {"steps": (Step("start", sh("true"), timeout_s=3),)},
        {"steps": (Step("start", sh("true"), effect=Effect.PAY),)},
        {"steps": (Step("launch", Request("POST", "http://x", {"name": "a"})),)},
        {"basis": (("code", "abd"),)},
        {"run": "0002-train"},
    ],
)
def test_it_covers(changed: dict[str, object]) -> None:
    assert replace(PLAN, **changed).digest != PLAN.digest  # type: ignore[arg-type]


def test_the_order_of_steps_counts() -> None:
    one, two = Step("a", sh("one")), Step("b", sh("two"))
    assert replace(PLAN, steps=(one, two)).digest != replace(PLAN, steps=(two, one)).digest

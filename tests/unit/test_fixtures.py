"""The fixtures themselves: a phase outside the checkout can be planned, in a folder of any name."""

import pytest

from tests.conftest import Runner
from tests.support import Lab


@pytest.mark.parametrize("place", ["research_log", "hostile_log"])
def test_a_phase_outside_the_checkout_is_planned(
    place: str, request: pytest.FixtureRequest, runner_here: Runner
) -> None:
    lab: Lab = request.getfixturevalue(place)
    lab.add_phase("phase3-here", args={"epochs": 3})
    done = runner_here("phase=phase3", "action=train", "output=json", *lab.args)
    assert done.exit_code == 0, done
    assert done.plan["format"] == "runner.plan/1"
    assert done.plan["run"] == "0001-train"
    assert "--epochs=3" in done.plan["steps"][-1]["command"]

"""The doctor on rented machines: each trouble is named with its evidence and the command that mends it."""

from tests.integration.test_machines import LAUNCH, Renting, paper, rent
from tests.simulator.faults import Fault

__all__ = ["paper", "rent"]  # fixtures


def symptoms(renting: Renting, *args: str) -> dict[str, str]:
    """Symptom → remedy."""
    found = renting.json("action=doctor", "instance=gpu_1x_a10", *args)["diagnoses"]
    assert all(diagnosis["evidence"] and diagnosis["cause"] for diagnosis in found)
    return {diagnosis["symptom"]: diagnosis["remedy"] for diagnosis in found}


def test_a_missing_key_a_refused_key_and_a_cloud_that_is_down_are_told_apart(paper: Renting) -> None:
    done = paper("action=doctor", "instance=gpu_1x_a10", env={"LAMBDA_API_KEY": None})
    assert (done.exit_code, "export LAMBDA_API_KEY" in done.stdout) == (0, True)
    paper.cloud.faults.add(Fault("invalid-key"))
    assert "export LAMBDA_API_KEY" in symptoms(paper)["the cloud refuses to answer"]
    paper.cloud.faults.clear()
    paper.cloud.faults.add(Fault("server-error"))
    assert "action=status" in symptoms(paper)["the cloud does not answer"]


def test_capacity_and_quota_are_remembered_from_the_last_launch(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("no-capacity"))
    assert paper(*LAUNCH, "confirm=true").exit_code == 75
    assert "wait_for_capacity=2h" in symptoms(paper)["no capacity"]
    paper.cloud.faults.clear()
    paper.cloud.faults.add(Fault("quota"))
    assert paper(*LAUNCH, "confirm=true").exit_code == 77
    assert "the quota is reached" in symptoms(paper)


def test_a_machine_of_no_use_and_one_that_is_gone(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("unhealthy"))
    assert paper(*LAUNCH, "confirm=true").exit_code == 0
    assert paper("action=wait").exit_code == 65
    assert "action=terminate" in symptoms(paper)["the machine is of no use"]

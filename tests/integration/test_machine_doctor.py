"""The doctor on rented machines: each trouble is named with its evidence and the command that mends it."""

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration.test_machines import LAUNCH, Renting, paper, rent
from tests.simulator.account import Effects
from tests.simulator.faults import Fault
from tests.simulator.machine import make_key
from tests.support import CHECKOUT, consented

__all__ = ["paper", "rent"]  # fixtures


def only(renting: Renting) -> dict[str, str]:
    """The one diagnosis, of a bare `action=doctor`."""
    (diagnosis,) = renting.json("action=doctor")["diagnoses"]
    assert all(diagnosis.values())
    return dict(diagnosis)


def take(renting: Renting, remedy: str, *more: str) -> None:
    """Type the remedy, as it is shown."""
    line = shlex.join([*shlex.split(remedy), *more])
    done = subprocess.run(
        ["bash", "-c", line], cwd=CHECKOUT, env=renting.env(), capture_output=True, text=True
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)


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
    assert consented(paper, *LAUNCH).exit_code == 75
    assert "wait_for_capacity=2h" in symptoms(paper)["no capacity"]
    paper.cloud.faults.clear()
    paper.cloud.faults.add(Fault("quota"))
    assert consented(paper, *LAUNCH).exit_code == 77
    assert "the quota is reached" in symptoms(paper)


def test_a_machine_of_no_use(paper: Renting) -> None:
    paper.cloud.faults.add(Fault("unhealthy"))
    assert consented(paper, *LAUNCH).exit_code == 0
    assert paper("action=wait").exit_code == 65
    assert "action=terminate" in symptoms(paper)["the machine is of no use"]


def test_on_a_real_machine_each_trouble_is_found_and_its_remedy_mends_it(
    rent: Callable[..., Renting],
) -> None:
    """A broken GPU, a changed host key, a wrong key, a shutdown inside, an end elsewhere, another address."""
    renting = rent()
    renting.up()
    instance = renting.cloud.alive()[0]
    machine = renting.cloud.machine(instance.id)
    assert renting.json("action=doctor")["diagnoses"] == []

    assert machine.has_cuda, "a C compiler is needed to make the machine's CUDA: gcc, libc6-dev"
    machine.set_gpu(cuda=802)
    found = only(renting)
    assert (found["symptom"], "action=terminate" in found["remedy"]) == ("CUDA error 802", True)
    machine.set_gpu(cuda=0)

    (machine.inside / "etc/host_key").unlink()
    make_key(machine.inside / "etc/host_key", "another")
    machine.reboot()
    found = only(renting)
    assert found["symptom"] == "the host key changed"
    take(renting, found["remedy"])
    assert renting.ssh("echo again") == "again\n"

    right = renting.home / ".ssh/work"
    make_key(right, "work")
    let_in_only(renting, machine.home, right.with_suffix(".pub").read_text())
    machine.reboot()  # no shared connection outlives this
    found = only(renting)
    assert found["symptom"] == "the wrong ssh key" and "Permission denied" in found["evidence"]
    take(renting, found["remedy"], "confirm=true")
    assert renting.ssh("echo by the right key") == "by the right key\n"

    subprocess.run(["ssh", "-F", renting.home / ".ssh/config", "lambda", "sudo poweroff"], env=renting.env())
    assert only(renting)["symptom"] in ("the machine does not answer ssh", "the machine is of no use")
    assert len(renting.cloud.alive()) == 1, "a shutdown inside ends nothing"

    renting.cloud.account.terminate({"instance_ids": [instance.id]}, Effects())
    wait_until(lambda: renting.cloud.account.list_instances() == [])
    found = only(renting)
    assert found["symptom"] == "a machine is gone" and "billed no longer" in found["cause"]
    take(renting, found["remedy"])
    assert renting.json("action=doctor")["diagnoses"] == []

    let_in_only(renting, None, (renting.home / ".ssh/id_ed25519.pub").read_text())
    assert consented(renting, *LAUNCH).exit_code == 0
    assert renting("action=wait").exit_code == 0
    found = only(renting)
    assert found["symptom"] == "the address changed"
    take(renting, found["remedy"], "confirm=true")
    assert renting.ssh("echo there") == "there\n"


def let_in_only(renting: Renting, home: Path | None, public: str) -> None:
    """The key that the account gives to machines; to the one that is there, too."""
    renting.cloud.account.keys[0].public_key = public.strip()
    if home:
        (home / ".ssh/authorized_keys").write_text(public)


def wait_until(is_so: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Until it is so."""
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)

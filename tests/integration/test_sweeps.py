"""Sweeps on this machine: one load, results by member, failures alone, what is missing run again."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.remote import Rig
from tests.support import PYTHON, Lab, runner_env, soak_size
from tests.sweeps import ARGS, SAMPLER, add_sampler

BASE = ("phase=phase2", "action=generate")


def results(phase: Path, run: str = "0001-generate") -> dict[str, dict[str, object]]:
    folder = phase / "samples" / run
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_members_that_load_the_same_share_one_process(research_log: Lab, runner: Runner) -> None:
    phase = add_sampler(research_log)
    words = (*research_log.args, "-m", *BASE, f"{ARGS}.temperature=0.1,0.2", f"{ARGS}.model=a,b")
    shown = runner(*words, "output=json").plan
    assert [member["process"] for member in shown["members"]] == [0, 1, 0, 1]
    assert shown["members"][2]["overrides"] == [f"{ARGS}.temperature=0.2", f"{ARGS}.model=a"]
    done = runner(*words, f"confirm={shown['digest']}")
    assert done.exit_code == 0, done
    assert "4 of 4 finished" in done.stderr
    told = results(phase)
    assert {name: (r["model"], r["values"]["temperature"]) for name, r in told.items()} == {  # type: ignore[index]
        "0": ("a", 0.1), "1": ("b", 0.1), "2": ("a", 0.2), "3": ("b", 0.2)}  # fmt: skip
    assert (phase / "samples/0001-generate/loads").read_text().split() == ["a", "b"]
    lines = (phase / "runs/0001-generate/configs.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["member"] for line in lines) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "value", ["plain", "it's", "$(touch x)", "'; rm -rf ~", "a,b", "\u674e\u660e\n2", "{}"]
)
def test_any_value_arrives_through_configs_jsonl(hostile_log: Lab, runner: Runner, value: str) -> None:
    phase = add_sampler(hostile_log, text="x")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    done = runner(*hostile_log.args, "-m", *BASE, f'{ARGS}.text="{quoted}"', "confirm=true")
    assert done.exit_code == 0, done
    assert results(phase)["0"]["values"]["text"] == value  # type: ignore[index]


def test_a_failing_member_fails_alone_and_is_named(research_log: Lab, runner: Runner) -> None:
    phase = add_sampler(research_log)
    words = (*research_log.args, *BASE, f"{ARGS}.fail=null,'CUDA out of memory',null", f"{ARGS}.steps=1,2")
    done = runner("-m", *words, "confirm=true")
    assert done.exit_code == 3
    assert "4 of 6 finished, 2 failed" in done.stderr
    assert f"2  {ARGS}.fail='CUDA out of memory' {ARGS}.steps=1: CUDA out of memory" in done.stderr
    assert "alone:" in done.stderr
    assert "resume=0001 batch_size=4" in done.stderr, "less memory is offered"
    assert json.loads((phase / "runs/0001-generate/result.json").read_text())["exit_code"] == 3
    again = runner(*research_log.args, *BASE, "resume=1", "output=json").plan
    assert [member["overrides"][1] for member in again["members"]] == [f"{ARGS}.steps=1", f"{ARGS}.steps=2"]
    smaller = runner(*research_log.args, *BASE, "resume=1", "batch_size=4", "output=json").plan
    assert '"batch_size": 4' in smaller["steps"][1]["file"]["text"]


def test_resume_runs_what_is_missing_where_the_results_are(research_log: Lab, runner: Runner) -> None:
    phase = add_sampler(research_log)
    words = (*research_log.args, *BASE)
    assert runner(*words, "-m", f"{ARGS}.temperature=range(5)", "confirm=true").exit_code == 0
    whole = results(phase)
    for name in ("1", "3"):
        (phase / f"samples/0001-generate/{name}.json").unlink()
    resumed = runner(*words, "resume=0001-generate", "confirm=true")
    assert resumed.exit_code == 0, resumed
    assert results(phase) == whole
    assert "nothing" not in (phase / "runs/0002-generate/log").read_text()
    done = runner(*words, "resume=2")
    assert "Nothing to do: all 2 members of 0002-generate are finished" in done.stdout
    assert runner(*words, "resume=7").exit_code == 64


def test_a_job_without_fold_runs_member_after_member(hostile_log: Lab, runner: Runner) -> None:
    script = (
        "import sys, pathlib\nlr = sys.argv[1]\nprint('got', lr)\nsys.exit(5 if lr == '--lr=0.2' else 0)\n"
    )
    phase = hostile_log.add_phase("phase1-test", script, args={"lr": 1})
    words = (*hostile_log.args, "phase=phase1", "action=train")
    done = runner("-m", *words, "phase.jobs.train.args.lr=0.1,0.2,0.3", "confirm=true")
    assert done.exit_code == 5, done
    log = (phase / "runs/0001-train/log").read_text()
    assert [line for line in log.splitlines() if line.startswith("got")] == [
        f"got --lr={lr}" for lr in (0.1, 0.2, 0.3)
    ]
    assert "== member 1: phase.jobs.train.args.lr=0.2" in log
    assert sorted(results(phase, "0001-train")) == ["0", "1.error", "2"]
    (phase / "train.py").write_text("print('mended')\n")
    assert runner(*words, "resume=1", "confirm=true").exit_code == 0
    assert sorted(results(phase, "0001-train")) == ["0", "1", "2"]


def test_a_thousand_members_fit_their_commands(research_log: Lab, runner: Runner) -> None:
    phase = add_sampler(research_log, steps=0, note="a longer note, " * 10)
    words = (*research_log.args, "-m", *BASE, f"{ARGS}.temperature=range(1000)")
    shown = runner(*words, "output=json").plan
    assert len(shown["members"]) == 1000
    (configs,) = (step for step in shown["steps"] if step["name"] == "configs")
    assert configs["file"]["text"].count("\n") == 1000
    assert f"{configs['command']}  (1,000 lines)" in runner(*words).stdout
    assert runner(*words, "output=json", "confirm=true").exit_code == 0
    assert len(results(phase)) == 1000
    assert (phase / "runs/0001-generate/configs.jsonl").read_text() == configs["file"]["text"]


def test_a_sweep_on_a_machine_comes_home(rig: Rig) -> None:
    """Configs go there, one process works through them, every member's result comes back; then the rest."""
    phase = add_sampler(rig.lab)
    words = (*BASE, f"{ARGS}.temperature=0.5,1", f'{ARGS}.fail=null,"it\'s; $(no)"')
    done = rig.run("-m", *words, "confirm=true", timeout_s=120)
    assert done.exit_code == 3, done
    assert sorted(results(phase)) == ["0", "1.error", "2", "3.error"]
    assert results(phase)["1.error"]["error"] == "it's; $(no)"
    assert "2 of 4 finished, 2 failed" in done.stderr
    there = rig.root / "research-log/phase2-sampler/runs/0001-generate/configs.jsonl"
    assert there.read_text() == (phase / "runs/0001-generate/configs.jsonl").read_text()
    mended = SAMPLER.replace('if values.get("fail")', "if False")
    (phase / "generate.py").write_text(mended)
    assert rig.run(*BASE, "resume=1", "confirm=true", timeout_s=120).exit_code == 0
    assert [name for name in sorted(results(phase)) if "error" not in name] == ["0", "1", "2", "3"]


def test_what_a_sweep_will_cost_is_told_where_it_is_paid(research_log: Lab, runner: Runner) -> None:
    phase = add_sampler(research_log)
    paid = (*research_log.args, "-m", *BASE, f"{ARGS}.temperature=range(10)", "instance=gpu_1x_a10")
    assert "estimate  no earlier run to go by; $1.29 for every hour that it takes" in runner(*paid).stdout
    assert "estimate" not in runner(*paid, "instance=local").stdout
    samples = phase / "samples" / "0001-generate"
    samples.mkdir(parents=True)
    for member in range(4):
        told = {"load_seconds": 60, "generation_seconds": 350, "pass_at_1": 1}
        (samples / f"{member}.json").write_text(json.dumps(told))
    # one load and ten members: 3,560 s at $1.29 an hour
    assert "estimate  $1.28: 59 min if members take as long as in 0001-generate" in runner(*paid).stdout


def test_ctrl_c_ends_the_sweep_and_not_just_a_member(research_log: Lab, home: Path, runner: Runner) -> None:
    script = "import time\nprint('began', flush=True)\ntime.sleep(30)\n"
    phase = research_log.add_phase("phase1-test", script, args={"lr": 1})
    words = (*research_log.args, "phase=phase1", "action=train")
    process = subprocess.Popen(
        [PYTHON, "-m", "runner", "-m", *words, "phase.jobs.train.args.lr=1,2,3", "confirm=true"],
        cwd=research_log.root, env=runner_env(home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    log = phase / "runs/0001-train/log"
    until(lambda: log.exists() and "began" in log.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert log.read_text().count("began") == 1
    assert results(phase, "0001-train") == {}
    (phase / "train.py").write_text("print('done')\n")
    assert runner(*words, "resume=1", "confirm=true").exit_code == 0
    assert sorted(results(phase, "0001-train")) == ["0", "1", "2"]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)


def test_a_script_does_what_confirm_does(research_log: Lab, runner: Runner, tmp_path: Path) -> None:
    phase = add_sampler(research_log)
    text = runner(*research_log.args, "-m", *BASE, f"{ARGS}.temperature=1,2", "output=script").stdout
    file = tmp_path / "plan.sh"
    file.write_text(text)
    assert subprocess.run(["bash", file], capture_output=True, check=False).returncode == 0
    assert sorted(results(phase)) == ["0", "1"]


@pytest.mark.parametrize(
    "words",
    [
        ("action=status",),
        ("action=generat",),
        ("action=generate,train",),
        ("output=json,text",),
        ("instance=local,x",),
    ],
)
def test_what_cannot_be_swept_is_64(research_log: Lab, runner: Runner, words: tuple[str, ...]) -> None:
    add_sampler(research_log)
    done = runner(*research_log.args, "-m", *BASE, *words)
    assert done.exit_code == 64 and "Traceback" not in done.stderr, done


@pytest.mark.soak
def test_killed_at_random_points_and_resumed(research_log: Lab, home: Path) -> None:
    """SIGKILL of everything, at any moment, loses at most the member that was under way."""
    num_points = soak_size(25, 3)
    chance = random.Random(20261124)
    phase = add_sampler(research_log, steps=4)
    env = runner_env(home, {"STEP_S": "0.02", "LOAD_S": "0.1"})
    sweep = ("-m", *research_log.args, *BASE, f"{ARGS}.temperature=range(8)")
    early, kept = 0, 0
    for point in range(num_points):
        origin = f"{2 * point + 1:04d}-generate"
        kill_after(chance.uniform(0.9, 3.0), sweep, env, research_log.root)
        if not (phase / "runs" / origin / "configs.jsonl").exists():
            (phase / "runs" / origin).mkdir(parents=True, exist_ok=True)
            (phase / "runs" / f"{2 * point + 2:04d}-generate").mkdir()  # killed before it began: counted on
            early += 1
            continue
        before = finished(phase, origin)
        kept += len(before)
        again = kill_after(60, (*research_log.args, *BASE, f"resume={origin}"), env, research_log.root)
        (phase / "runs" / f"{2 * point + 2:04d}-generate").mkdir(exist_ok=True)
        assert again == 0
        told = results(phase, origin)
        assert sorted(told, key=int) == [str(number) for number in range(8)]
        for name, lines in before.items():
            assert (phase / "samples" / origin / f"{name}.jsonl").read_text() == lines, "done twice"
        for name in told:
            steps = (phase / "samples" / origin / f"{name}.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in steps] == [0, 1, 2, 3]
    print(f"{num_points} kills, {early} before the configs were written; {kept} finished members kept")


def finished(phase: Path, run: str) -> dict[str, str]:
    folder = phase / "samples" / run
    return {path.stem: path.with_suffix(".jsonl").read_text() for path in folder.glob("*.json")}


def kill_after(seconds: float, words: tuple[str, ...], env: dict[str, str], cwd: Path) -> int:
    """Run to the end, or end the whole session by SIGKILL when the time is over."""
    process = subprocess.Popen(
        [PYTHON, "-m", "runner", *words, "confirm=true"],
        cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        return process.wait()


def end_session(session: int) -> None:
    """SIGKILL to every process of the session: the runner, its shells, the job."""
    while alive := alive_in(session):
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def alive_in(session: int) -> list[int]:
    """The processes of a session that are not merely waiting to be reaped."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True, check=False
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, stat in rows if not stat.startswith("Z")]

"""A job run for real on this machine: its exit code, its log, its folder, and who is told what."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import PYTHON, Lab, runner_env

TRAIN = ("phase=phase1", "action=train")


@pytest.mark.parametrize("code", [0, 1, 3, 64, 130, 255])
def test_the_exit_code_of_the_job_comes_out(code: int, research_log: Lab, runner: Runner) -> None:
    folder = research_log.add_phase(script=f"print('last words'); raise SystemExit({code})")
    done = runner(*TRAIN, "confirm=true", *research_log.args)
    assert done.exit_code == code, done
    assert (folder / "run.log").read_text() == "last words\n"
    run = folder / "runs" / "0001-train"
    result = json.loads((run / "result.json").read_text())
    assert (result["ok"], result["exit_code"]) == (code == 0, code)
    assert (run / "exit_code").read_text() == f"{code}\n"
    if code:
        assert f"exit code {code}" in done.stderr
        assert "last words" in done.stderr


def test_a_killed_job_says_by_what(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(script="import os; print('last words', flush=True); os.kill(os.getpid(), 9)")
    done = runner(*TRAIN, "confirm=true", *research_log.args)
    assert done.exit_code == 137, done
    assert "SIGKILL" in done.stderr
    assert "137" in done.stderr
    shown = done.stderr.partition("its last lines:\n")[2].splitlines()
    assert shown[0].strip() == "last words", done
    assert shown[1].startswith("  log "), done  # and not what the shell around it said


def test_the_last_lines_are_those_of_the_step_that_failed(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(script="for n in range(30): print('line', n)\nraise SystemExit(3)")
    done = runner(*TRAIN, "confirm=true", *research_log.args)
    shown = [line.strip() for line in done.stderr.splitlines() if line.startswith("    line")]
    assert shown == [f"line {n}" for n in range(20, 30)]


def test_what_runs_and_costs_is_not_mixed_with_a_log(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(script="print('a line')")
    assert runner(*TRAIN, "confirm=true", *research_log.args).exit_code == 0
    launched = {"event": "launched", "at": 1.0, "id": "f" * 32, "name": "lambda-0001-abcdef"}
    ledger = research_log.root / ".runner/ledger.jsonl"
    ledger.parent.mkdir(exist_ok=True)
    ledger.write_text(json.dumps({**launched, "usd_per_hour": 1.29}) + "\n")
    logs = runner("phase=phase1", "action=logs", *research_log.args)
    assert logs.stdout == "a line\n", logs
    assert "Running: lambda" in logs.stderr
    assert "Running: lambda" in runner(*research_log.args).stdout


def test_both_streams_are_in_the_log_in_order(research_log: Lab, runner: Runner) -> None:
    script = "import sys\nfor n in range(50): print('out', n); print('err', n, file=sys.stderr)"
    folder = research_log.add_phase(script=script)
    runner(*TRAIN, "confirm=true", *research_log.args)
    expected = "".join(f"out {n}\nerr {n}\n" for n in range(50))
    assert (folder / "run.log").read_text() == expected


def test_runs_are_numbered_and_the_link_is_the_newest(research_log: Lab, runner: Runner) -> None:
    folder = research_log.add_phase()
    for _ in range(2):
        assert runner(*TRAIN, "confirm=true", *research_log.args).exit_code == 0
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["0001-train", "0002-train"]
    assert str((folder / "run.log").readlink()) == "runs/0002-train/log"


def test_a_run_folder_holds_the_plan_the_log_and_the_result(research_log: Lab, runner: Runner) -> None:
    folder = research_log.add_phase()
    done = runner(*TRAIN, "confirm=true", "output=json", *research_log.args)
    plan, result = done.documents
    run = folder / "runs" / "0001-train"
    kept = json.loads((run / "plan.json").read_text())
    typed = kept.pop("arguments")  # for doctor, to type the same again
    assert kept.pop("token")  # by which its run is known
    assert kept | {"confirm": plan["confirm"]} == plan
    assert set(TRAIN) <= set(typed)
    assert json.loads((run / "result.json").read_text()) == result
    assert sorted(path.name for path in run.iterdir()) == [
        *("exit_code", "log", "pid", "plan.json", "result.json", "token")
    ]
    assert result["log"] == str(run / "log")
    assert [step["name"] for step in result["steps"]] == [step["name"] for step in plan["steps"]]


def test_json_has_nothing_but_documents_on_stdout(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(script="print('from the job')")
    done = runner(*TRAIN, "confirm=true", "output=json", *research_log.args)
    assert [document["format"] for document in done.documents] == ["runner.plan/1", "runner.result/1"]
    assert "from the job" in done.stderr


def test_a_run_log_that_is_a_file_from_before_is_kept(research_log: Lab, runner: Runner) -> None:
    folder = research_log.add_phase()
    (folder / "run.log").write_text("nine hours of training")
    shown = runner(*TRAIN, *research_log.args)
    assert "run.log is a file from before" in shown.stdout
    assert runner(*TRAIN, "confirm=true", *research_log.args).exit_code == 0
    assert (folder / "runs/0001-train/run.log.before").read_text() == "nine hours of training"
    assert (folder / "run.log").is_symlink()


def test_the_job_gets_the_environment_of_the_caller_and_its_own(research_log: Lab, runner: Runner) -> None:
    script = (
        "import os, json; print(json.dumps({n: os.environ.get(n) for n in ('CALLER', 'OWN', 'BY_NAME')}))"
    )
    folder = research_log.add_phase(script=script, env={"OWN": "x y", "BY_NAME": None})
    env = {"CALLER": "theirs", "BY_NAME": "s3cret"}
    done = runner(*TRAIN, "confirm=true", "output=json", *research_log.args, env=env)
    assert json.loads((folder / "run.log").read_text()) == {**env, "OWN": "x y"}
    assert "s3cret" not in done.stdout


def test_a_job_has_no_input_to_wait_for(research_log: Lab, runner: Runner) -> None:
    folder = research_log.add_phase(script="import sys; print(repr(sys.stdin.read()))")
    assert runner(*TRAIN, "confirm=true", *research_log.args).exit_code == 0
    assert (folder / "run.log").read_text() == "''\n"


def test_a_job_runs_in_a_folder_of_any_name(hostile_log: Lab, runner: Runner) -> None:
    script = "import os, sys; print([os.getcwd(), *sys.argv])"
    name = "phase1-it's \"x\"; 'echo foo' $(touch x)\n李明"
    entrypoint = 'sub dir/it\'s; "train" $(touch x).py'
    folder = hostile_log.add_phase(name, script, choice="phase1", entrypoint=entrypoint, args={"a": "b c"})
    done = runner(*TRAIN, "confirm=true", *hostile_log.args, cwd=hostile_log.root)
    assert done.exit_code == 0, done
    words = [str(hostile_log.root), f"research-log/{name}/{entrypoint}", "--a=b c"]
    assert (folder / "run.log").read_text() == f"{words}\n"
    assert not list(hostile_log.root.rglob("x"))


def test_a_reader_that_leaves_does_not_stop_the_job(research_log: Lab, home: Path) -> None:
    script = "import time\nfor n in range(20): print('line', n); time.sleep(0.02)\nprint('the end')"
    folder = research_log.add_phase(script=script)
    command = [PYTHON, "-m", "runner", *TRAIN, "confirm=true", *research_log.args]
    process = subprocess.Popen(command, env=runner_env(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    while b"line 0" not in process.stdout.readline():
        pass
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(20) == 0, errors
    assert (folder / "run.log").read_text().endswith("the end\n")
    assert json.loads((folder / "runs/0001-train/result.json").read_text())["ok"]

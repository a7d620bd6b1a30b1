"""doctor: each rule on the words that runs really leave behind, and what it tells to type."""

import json
import shlex
from pathlib import Path

import pytest

from runner.config.freeze import load
from runner.doctor.job_rules import Diagnosis, RunHealth, diagnose, evidence_of, read_health
from runner.errors import NeverStarted, UsageError
from runner.jobs.job import logs
from runner.machines.probe import SshAnswer
from runner.research_log.runs import RunState
from runner.world.world import Result
from tests.support import framed

OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
    "39.39 GiB of which 1.31 GiB is free."
)
KILLED = "[12.3] Out of memory: Killed process 4242 (python) total-vm:93MB, anon-rss:61MB"


def run_folder(
    tmp_path: Path, log: str, exit_code: int | None = 1, command: str = "", **plan: object
) -> Path:
    folder = tmp_path / "research-log/phase12-fractal-sampler/runs/0003-train"
    folder.mkdir(parents=True)
    (folder / "log").write_text(log)
    steps = [{"name": "start", "command": f"ssh lambda 'python train.py {command}'"}]
    document = {"instance": {"name": "lambda", "provider": "lambda"}, "steps": steps, **plan}
    (folder / "plan.json").write_text(json.dumps(document))
    if exit_code is not None:
        (folder / "exit_code").write_text(f"{exit_code}\n")
    return folder


def found(tmp_path: Path, folder: Path, *words: str, seen: RunHealth | None = None) -> tuple[Diagnosis, ...]:
    log = f"paths.research_log={tmp_path / 'research-log'}"
    settings = load(["phase=phase12", "action=doctor", log, *words], tmp_path)
    return diagnose(evidence_of(settings, folder, seen))


def only(tmp_path: Path, folder: Path, *words: str, seen: RunHealth | None = None) -> Diagnosis:
    (diagnosis,) = found(tmp_path, folder, *words, seen=seen)
    return diagnosis


def words_of(diagnosis: Diagnosis) -> list[str]:
    return shlex.split(diagnosis.remedy)


def test_out_of_gpu_memory_halves_the_batch_and_doubles_the_accumulation(tmp_path: Path) -> None:
    command = "--batch_size=32 --gradient_accumulation_steps=2"
    diagnosis = only(tmp_path, run_folder(tmp_path, f"step 1\n{OOM}\n", command=command))
    assert diagnosis.evidence == OOM
    assert {"action=train", "batch_size=16"} <= set(words_of(diagnosis))
    assert "phase.jobs.train.args.gradient_accumulation_steps=4" in words_of(diagnosis)


def test_out_of_gpu_memory_at_batch_one_asks_for_the_next_larger_machine(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OOM, command="--batch_size=1")
    diagnosis = only(tmp_path, folder, "instance=gpu_1x_a100_sxm4")
    assert {"action=up", "instance=gpu_1x_h100_pcie"} <= set(words_of(diagnosis))


def test_killed_by_the_kernel_needs_the_kernels_own_words(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "step 1\n", exit_code=137, command="--batch_size=8")
    diagnosis = only(tmp_path, folder, seen=RunHealth(RunState.ENDED, 137, oom_line=KILLED))
    assert diagnosis.symptom == "killed by the kernel"
    assert KILLED in diagnosis.evidence
    assert "batch_size=4" in words_of(diagnosis)


def test_a_run_without_process_and_exit_code_is_started_again(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "step 1\n", exit_code=None)
    diagnosis = only(tmp_path, folder, seen=RunHealth(RunState.LOST))
    assert diagnosis.symptom == "the run is lost"
    assert "action=train" in words_of(diagnosis)


def test_a_missing_vllm_is_installed_with_uv_in_the_shared_environment(tmp_path: Path) -> None:
    log = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'vllm'\n"
    diagnosis = only(tmp_path, run_folder(tmp_path, log))
    assert {"action=run", "command=uv pip install vllm"} <= set(words_of(diagnosis))


def test_a_module_is_installed_under_the_name_of_its_package(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "ModuleNotFoundError: No module named 'sklearn.metrics'\n")
    assert "command=uv pip install scikit-learn" in words_of(only(tmp_path, folder))


@pytest.mark.parametrize(
    ("line", "symptom"),
    [
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("RuntimeError: CUDA error 802: system not yet initialized", "CUDA error 802"),
        ("step 40 loss nan", "the loss is not a number"),
        ("step 40 loss=NaN", "the loss is not a number"),
        ('{"step": 40, "loss": NaN}', "the loss is not a number"),
    ],
)
def test_a_line_of_the_log_is_the_evidence(tmp_path: Path, line: str, symptom: str) -> None:
    diagnosis = only(tmp_path, run_folder(tmp_path, f"begin\n{line}\n"))
    assert (diagnosis.symptom, diagnosis.evidence) == (symptom, line)


def test_a_full_disk_is_seen_by_df_where_the_job_said_nothing(tmp_path: Path) -> None:
    seen = RunHealth(RunState.ENDED, 1, disk_percent=100, disk_line="/dev/vda1 512 512 0 100% /")
    diagnosis = only(tmp_path, run_folder(tmp_path, ""), seen=seen)
    assert diagnosis.evidence == "/dev/vda1 512 512 0 100% /"


def test_a_diverged_run_is_tried_again_with_a_tenth_of_the_learning_rate(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "loss: nan\n", command="--lr=0.0003")
    assert "phase.jobs.train.args.lr=3e-05" in words_of(only(tmp_path, folder))


@pytest.mark.parametrize(("silent_s", "gpu", "hangs"), [(900, 0, True), (900, 60, False), (60, 0, False)])
def test_a_run_hangs_when_neither_it_nor_the_gpu_does_anything(
    tmp_path: Path, silent_s: int, gpu: int, hangs: bool
) -> None:
    seen = RunHealth(RunState.RUNNING, silent_s=silent_s, gpu_percent=gpu)
    diagnoses = found(tmp_path, run_folder(tmp_path, "step 1\n", exit_code=None), seen=seen)
    assert [d.symptom for d in diagnoses] == (["the run hangs"] if hangs else [])
    assert all("action=stop" in words_of(d) for d in diagnoses)


def test_a_failure_that_no_rule_knows_is_told_in_its_own_words(tmp_path: Path) -> None:
    diagnosis = only(tmp_path, run_folder(tmp_path, "one\nKeyError: 'x'\n"))
    assert diagnosis.evidence == "exit code 1: KeyError: 'x'"
    assert {"action=logs", "run=0003"} <= set(words_of(diagnosis))


def test_a_run_that_went_well_has_no_symptoms_whatever_it_printed(tmp_path: Path) -> None:
    assert found(tmp_path, run_folder(tmp_path, f"caught: {OOM}\n", exit_code=0)) == ()


def with_rule(tmp_path: Path, **rule: str) -> Path:
    """A folder of configuration whose phase12 brings a rule of its own."""
    folder = tmp_path / "conf/phase"
    folder.mkdir(parents=True)
    document = {"phase": {"name": "phase12-fractal-sampler"}, "doctor": {"rules": {"seed": rule}}}
    (folder / "mine.yaml").write_text("# @package _global_\n" + json.dumps(document))
    return tmp_path / "conf"


def test_a_rule_of_ones_own_comes_first(tmp_path: Path) -> None:
    rule = {"symptom": "unlucky", "pattern": "seed 13", "cause": "luck", "remedy": "echo 14"}
    words = ["phase=mine", f"paths.research_log={tmp_path / 'research-log'}"]
    settings = load(words, tmp_path, with_rule(tmp_path, **rule))
    diagnosis = diagnose(evidence_of(settings, run_folder(tmp_path, "seed 13\n")))[0]
    assert diagnosis == Diagnosis("unlucky", "seed 13", "luck", "echo 14")


def test_a_rule_with_a_broken_pattern_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"doctor\.rules\.seed\.pattern"):
        load(["phase=mine"], tmp_path, with_rule(tmp_path, pattern="(", remedy="r"))


def test_the_machines_words_are_read() -> None:
    told = {"state": "running", "silent_s": 700, "disk_percent": 98, "gpu_percent": 35, "oom_line": KILLED}
    seen = read_health(Result(0, b"Welcome!\n" + framed(told)))
    assert isinstance(seen, RunHealth)
    assert (seen.state, seen.silent_s, seen.disk_percent) == (RunState.RUNNING, 700, 98)
    assert (seen.gpu_percent, seen.oom_line) == (35, KILLED)
    assert read_health(Result(0, framed({"state": "absent"}))) == RunHealth(RunState.ABSENT)


@pytest.mark.parametrize("result", [Result(255), Result(0), Result(0, framed({"state": "running"})[:-9])])
def test_what_is_no_whole_answer_says_nothing_of_the_run(result: Result) -> None:
    assert isinstance(read_health(result), SshAnswer)


def test_a_start_up_file_that_prints_is_found_in_the_words_of_rsync(tmp_path: Path) -> None:
    line = "protocol version mismatch -- is your shell clean?"
    (diagnosis,) = found(tmp_path, failed_setup(run_folder(tmp_path, "", exit_code=None), line))
    assert diagnosis.evidence == line and "~/.bashrc" in diagnosis.cause


def test_what_mends_a_run_is_typed_as_the_run_was(tmp_path: Path) -> None:
    typed = ["phase=phase12", "action=train", "instance=gpu_1x_a10", "+phase.jobs.train.args.extra=1"]
    folder = run_folder(tmp_path, OOM, command="--batch_size=8", arguments=[*typed, "batch_size=8"])
    log = f"paths.research_log={tmp_path / 'research-log'}"
    settings = load(["action=doctor", log], tmp_path)
    (diagnosis,) = diagnose(evidence_of(settings, folder))
    assert {*typed, log, "batch_size=4"} <= set(words_of(diagnosis))
    assert not {"batch_size=8", "action=doctor"} & set(words_of(diagnosis))


def test_the_next_larger_machine_is_larger_than_the_one_of_the_run(tmp_path: Path) -> None:
    machine = {"name": "lambda", "provider": "lambda", "type": "gpu_1x_a100_sxm4"}
    diagnosis = only(tmp_path, run_folder(tmp_path, OOM, command="--batch_size=1", instance=machine))
    assert "instance=gpu_1x_h100_pcie" in words_of(diagnosis)


def failed_setup(folder: Path, *lines: str) -> Path:
    (folder / "log").unlink()
    steps = [{"name": "sync", "exit_code": 0}, {"name": "setup", "exit_code": 69}]
    result = {"exit_code": 69, "log": None, "steps": steps, "last_lines": lines}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_run_that_never_started_is_told_by_the_words_of_the_step_that_failed(tmp_path: Path) -> None:
    folder = failed_setup(run_folder(tmp_path, "", exit_code=None), "uv could not be installed")
    diagnosis = only(tmp_path, folder)
    assert diagnosis.symptom == "the job never started"
    assert diagnosis.evidence == "its step setup ended with exit code 69: uv could not be installed"
    assert "action=train" in words_of(diagnosis)


def test_what_a_rule_knows_is_also_found_in_the_words_of_an_earlier_step(tmp_path: Path) -> None:
    line = "cp: error writing 'x': No space left on device"
    folder = failed_setup(run_folder(tmp_path, "", exit_code=None), line)
    assert [d.symptom for d in found(tmp_path, folder)] == ["disk full"]


def test_the_log_of_a_run_that_never_started_is_not_waited_for(tmp_path: Path) -> None:
    failed_setup(run_folder(tmp_path, "", exit_code=None), "uv could not be installed")
    log = f"paths.research_log={tmp_path / 'research-log'}"
    settings = load(["phase=phase12", "action=logs", log], tmp_path)
    with pytest.raises(NeverStarted, match="step setup") as raised:
        next(logs(settings))
    assert raised.value.exit_code == 69
    assert any("action=doctor" in hint for hint in raised.value.hints)


def test_a_run_that_was_stopped_has_no_error_of_its_own(tmp_path: Path) -> None:
    diagnosis = only(tmp_path, run_folder(tmp_path, "step 9\n", exit_code=143))
    assert diagnosis.symptom == "the run was stopped"
    assert "action=train" in words_of(diagnosis)


def test_a_kill_without_the_kernels_words_is_no_error_of_the_script(tmp_path: Path) -> None:
    diagnosis = only(tmp_path, run_folder(tmp_path, "step 9\n", exit_code=137))
    assert diagnosis.symptom == "killed with -9"

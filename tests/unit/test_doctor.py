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


def run_folder(tmp_path: Path, log: str, exit_code: int | None = 1, **plan: object) -> Path:
    folder = tmp_path / "research-log/phase12-fractal-sampler/runs/0003-train"
    folder.mkdir(parents=True)
    (folder / "log").write_text(log)
    document = {"instance": {"name": "lambda", "provider": "lambda"}, **plan}
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
    values = {"batch_size": 32, "gradient_accumulation_steps": 2}
    diagnosis = only(tmp_path, run_folder(tmp_path, f"step 1\n{OOM}\n", values=values))
    assert diagnosis.evidence == OOM
    assert {"action=train", "batch_size=16"} <= set(words_of(diagnosis))
    assert "phase.jobs.train.args.gradient_accumulation_steps=4" in words_of(diagnosis)


def test_out_of_gpu_memory_at_batch_one_asks_for_the_next_larger_machine(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OOM, values={"batch_size": 1})
    diagnosis = only(tmp_path, folder, "instance=gpu_1x_a100_sxm4")
    assert {"action=up", "instance=gpu_1x_h100_pcie"} <= set(words_of(diagnosis))


def test_killed_by_the_kernel_needs_the_kernels_own_words(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "step 1\n", exit_code=137, values={"batch_size": 8})
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
    folder = run_folder(tmp_path, "loss: nan\n", values={"lr": 0.0003})
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
    folder = run_folder(tmp_path, OOM, values={"batch_size": 8}, arguments=[*typed, "batch_size=8"])
    log = f"paths.research_log={tmp_path / 'research-log'}"
    settings = load(["action=doctor", log], tmp_path)
    (diagnosis,) = diagnose(evidence_of(settings, folder))
    assert {*typed, log, "batch_size=4"} <= set(words_of(diagnosis))
    assert not {"batch_size=8", "action=doctor"} & set(words_of(diagnosis))


def test_the_next_larger_machine_is_larger_than_the_one_of_the_run(tmp_path: Path) -> None:
    machine = {"name": "lambda", "provider": "lambda", "type": "gpu_1x_a100_sxm4"}
    diagnosis = only(tmp_path, run_folder(tmp_path, OOM, values={"batch_size": 1}, instance=machine))
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


LOCAL = {"name": "local", "provider": "local", "type": None}


def test_a_batch_size_behind_all_other_words_of_the_job_is_halved(tmp_path: Path) -> None:
    steps = [{"name": "start", "command": "ssh lambda 'python train.py --lr=1 --batch_size=32'"}]
    folder = run_folder(tmp_path, OOM, steps=steps, values={"lr": 1, "batch_size": 32})
    assert {"action=train", "batch_size=16"} <= set(words_of(only(tmp_path, folder)))


def test_a_batch_size_by_the_name_of_transformers_is_halved_and_accumulated(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OOM, values={"per_device_train_batch_size": 8})
    words = words_of(only(tmp_path, folder))
    assert "phase.jobs.train.args.per_device_train_batch_size=4" in words
    assert "++phase.jobs.train.args.gradient_accumulation_steps=2" in words
    declared = [word for word in words[3:] if "per_device" not in word]  # phase12 has no such argument
    assert load(declared, tmp_path).action == "train"


def test_an_accumulation_by_the_name_of_transformers_is_doubled(tmp_path: Path) -> None:
    values = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    folder = run_folder(tmp_path, OOM, values=values, arguments=["args.per_device_train_batch_size=8"])
    words = words_of(only(tmp_path, folder))
    assert "phase.jobs.train.args.gradient_accumulation_steps=8" in words
    assert "args.per_device_train_batch_size=4" in words and "args.per_device_train_batch_size=8" not in words


def test_a_sweep_that_ran_out_of_memory_is_resumed_in_half_its_largest_batch(tmp_path: Path) -> None:
    typed = ["phase=phase12", "action=train", "-m", "batch_size=8,16", "+phase.jobs.train.args.extra=1,2"]
    folder = run_folder(tmp_path, f"{OOM}\nstep 1\n", values={"lr": 0.1}, members=[{}], arguments=typed)
    lines = [{"member": n, "load": {}, "values": {"batch_size": size}} for n, size in enumerate((8, 16, 8))]
    (folder / "configs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = words_of(only(tmp_path, folder))
    assert {"action=train", "resume=0003", "batch_size=8"} <= set(words)
    assert "-m" not in words[3:] and not any("extra" in word for word in words)


@pytest.mark.parametrize("exit_code", [1, 143, None])
@pytest.mark.parametrize("after", ["step 2 loss 0.5", '{"step": 2}', "12:30:01 INFO step 2"])
def test_an_out_of_memory_error_that_was_survived_is_not_the_cause(
    tmp_path: Path, after: str, exit_code: int | None
) -> None:
    folder = run_folder(tmp_path, f"step 1\n{OOM}\n{after}\n", exit_code, values={"batch_size": 8})
    assert "CUDA out of memory" not in [d.symptom for d in found(tmp_path, folder)]


def test_a_job_that_ended_of_another_error_after_one_of_memory_is_told_by_the_last(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, f"caught: {OOM}\nTraceback (most recent call last):\nKeyError: 'x'\n")
    assert only(tmp_path, folder).evidence == "exit code 1: KeyError: 'x'"


@pytest.mark.parametrize(
    "after",
    [
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "During handling of the above exception, another exception occurred:\nRuntimeError: closed",
        "[rank1]: torch.distributed.DistBackendError: NCCL error in: x.cpp:1",
        " 10%|█         | 1/10 [00:01<00:09,  1.0it/s]",
    ],
)
def test_an_out_of_memory_error_with_words_behind_it_is_the_cause(tmp_path: Path, after: str) -> None:
    folder = run_folder(tmp_path, f"{OOM}\n{after}\n", values={"batch_size": 8})
    assert "batch_size=4" in words_of(only(tmp_path, folder))


@pytest.mark.parametrize("batch_size", [8, None])
def test_out_of_memory_on_this_machine_is_not_answered_with_renting(
    tmp_path: Path, batch_size: int | None
) -> None:
    folder = run_folder(tmp_path, OOM, instance=LOCAL, values={"batch_size": batch_size})
    assert "action=up" not in words_of(only(tmp_path, folder))


def test_out_of_memory_on_this_machine_at_batch_one_is_told_plainly(tmp_path: Path) -> None:
    diagnosis = only(tmp_path, run_folder(tmp_path, OOM, instance=LOCAL, values={"batch_size": 1}))
    assert "action=up" in words_of(diagnosis)
    assert diagnosis.cause.startswith("the batch is 1 already")


def test_no_larger_machine_than_the_largest_is_advised(tmp_path: Path) -> None:
    machine = {"name": "lambda", "provider": "lambda", "type": "gpu_1x_gh200"}
    folder = run_folder(tmp_path, OOM, instance=machine, values={"batch_size": 1})
    assert "action=logs" in words_of(only(tmp_path, folder))


@pytest.mark.parametrize("file", ["phase3-other/utils.py", "phase3-other/lib/utils/__init__.py"])
@pytest.mark.parametrize("place", [{}, {"instance": LOCAL}])
def test_a_module_of_a_sibling_phase_is_not_installed_from_strangers(
    tmp_path: Path, file: str, place: dict[str, object]
) -> None:
    path = tmp_path / "research-log" / file
    path.parent.mkdir(parents=True)
    path.touch()
    folder = run_folder(tmp_path, "ModuleNotFoundError: No module named 'utils.text'\n", **place)
    diagnosis = only(tmp_path, folder)
    words = words_of(diagnosis)
    assert not any("install" in word or "deps" in word for word in words)
    below = (path if path.name == "utils.py" else path.parent).relative_to(tmp_path)
    assert f"++phase.jobs.train.env.PYTHONPATH={below.parent}" in words
    assert (f"phase.inputs=[{below}]" in words) == (not place)
    settings = load(words[3:], tmp_path)
    assert settings.phase and settings.phase.inputs == (() if place else (str(below),))


def test_a_file_of_that_name_that_an_installer_left_is_no_sibling(tmp_path: Path) -> None:
    installed = tmp_path / "research-log/phase11-fractal-logic/.venv/lib/utils.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    folder = run_folder(tmp_path, "ModuleNotFoundError: No module named 'utils'\n")
    assert "command=uv pip install utils" in words_of(only(tmp_path, folder))


BAR = "train: 100%|██████████| 30/30 [00:12<00:00,  2.4it/s, loss=0.3]"


@pytest.mark.parametrize(
    "bar",
    [
        BAR,
        "30it [00:12,  2.40it/s]",
        "   ━━━━━━━━━━━━ 12/30 0:00:03",
        "10/10 [=====>......] - 1s",
        "50%|##5  |",
    ],
)
def test_a_progress_bar_is_not_the_last_word_of_a_job(tmp_path: Path, bar: str) -> None:
    folder = run_folder(tmp_path, f"step 1\nKeyError: 'x'\n{bar}\r{bar}\n")
    assert only(tmp_path, folder).evidence == "exit code 1: KeyError: 'x'"


def test_a_job_that_drew_nothing_but_a_bar_is_told_by_it(tmp_path: Path) -> None:
    assert only(tmp_path, run_folder(tmp_path, f"{BAR}\n")).evidence == f"exit code 1: {BAR}"


@pytest.mark.parametrize(
    "line",
    [
        "_pickle.UnpicklingError: invalid load key, 'v'.",
        "ValueError: b'version https://git-lfs.github.com/spec/v1' is no header",
    ],
)
def test_a_pointer_of_git_lfs_taken_for_weights_is_fetched(tmp_path: Path, line: str) -> None:
    diagnosis = only(tmp_path, run_folder(tmp_path, f"{line}\n"))
    assert words_of(diagnosis) == ["git", "-C", str(tmp_path), "lfs", "pull"]


NO_BLOCKS = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."
TOO_LONG = (
    "ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be "
    "stored in KV cache (33168). Try increasing `gpu_memory_utilization`."
)
END = "RuntimeError: Engine core initialization failed. See root cause above."


@pytest.mark.parametrize(
    ("line", "values", "remedy"),
    [
        (TOO_LONG, {"max_model_len": 131072}, "phase.jobs.train.args.max_model_len=33168"),
        (TOO_LONG, {"gpu_memory_utilization": 0.8}, "phase.jobs.train.args.gpu_memory_utilization=0.95"),
        (NO_BLOCKS, {"gpu_memory_utilization": 0.8}, "phase.jobs.train.args.gpu_memory_utilization=0.95"),
        (NO_BLOCKS, {"gpu_memory_utilization": 0.95}, "action=up"),
        (NO_BLOCKS, {}, "action=up"),
    ],
)
def test_vllm_without_room_for_its_cache_is_given_less_to_keep_or_more_room(
    tmp_path: Path, line: str, values: dict[str, object], remedy: str
) -> None:
    folder = run_folder(tmp_path, f"{line}\n{END}\n", values=values)
    diagnosis = only(tmp_path, folder, "instance=gpu_1x_a10")
    assert diagnosis.symptom == "vLLM finds no room for its cache" and diagnosis.evidence == line
    assert remedy in words_of(diagnosis)

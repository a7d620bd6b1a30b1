"""What went wrong with a job: the evidence that its run left, and the rules that read it."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.doctor.log_words import fatal_line, last_words
from runner.machines.probe import SshAnswer, read_answer
from runner.plan.command import Route, sh
from runner.plan.next_command import OF_ONE_VERB, key_of, line_of, without_sweep
from runner.plan.settings import LOCAL, DoctorRule, Settings
from runner.research_log.runs import (
    FailedStep,
    RunState,
    exit_code_in,
    failed_before_start,
    plan_in,
    read_lines,
    tail_of,
)
from runner.research_log.sweep_results import CONFIGS
from runner.world.world import Fact, Result, documents_of


@dataclass(frozen=True)
class Diagnosis:
    """One thing that is wrong; `remedy` is a command line."""

    symptom: str
    evidence: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class RunHealth:
    """What a machine says of a run on it. `gpu_percent` is of its busiest GPU, None without one."""

    state: RunState = RunState.UNKNOWN
    exit_code: int | None = None
    silent_s: int | None = None
    disk_percent: int | None = None
    disk_line: str = ""
    gpu_percent: int | None = None
    oom_line: str = ""


def ask_health(route: Route, root: str, run: str, token: str = "") -> Fact[RunHealth | SshAnswer]:
    """What the machine says of the run in the folder `run`; where that is no answer, what it says instead.

    `token`: which plan started it; a run of that name that another plan started is not meant.
    """
    return Fact(route.question(root, "health", run, "--token", token), read_health)


def read_health(result: Result) -> RunHealth | SshAnswer:
    """What `health` answers."""
    documents = documents_of(result)
    if not documents:
        return read_answer(result)
    (told,) = documents
    seen = {name: told[name] for name in _SEEN if name in told}
    return RunHealth(RunState(told["state"]), told.get("exit_code"), **seen)


_SEEN = ("silent_s", "disk_percent", "disk_line", "gpu_percent", "oom_line")


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run. `seen` is None when its machine does not answer, or is this one."""

    settings: Settings
    run: str
    action: str
    is_local: bool
    log: str
    exit_code: int | None
    metrics: str = ""
    seen: RunHealth | None = None
    instance_type: str | None = None
    arguments: tuple[str, ...] = ()  # with which the run was started
    failed_step: FailedStep | None = None  # before the job
    values: tuple[tuple[str, Any], ...] = ()  # what the job was given; of a sweep the largest of each
    is_sweep: bool = False

    @property
    def run_number(self) -> str:
        """`0003`."""
        return self.run.partition("-")[0]

    def number(self, pattern: str) -> tuple[str, float] | None:
        """The first argument of the job that has such a name and is a number."""
        return next((p for p in self.values if re.fullmatch(pattern, p[0]) and _is_number(p[1])), None)

    def override(self, name: str, value: object) -> str:
        """What is typed to give the job another value for this argument."""
        keys = (f"args.{name}", f"phase.jobs.{self.action}.args.{name}")
        typed = set(map(key_of, self.arguments))
        return f"{next((key for key in keys if key in typed), keys[-1])}={value}"

    def rerun(self, *overrides: str) -> str:
        """The command line that starts the job again with these overrides."""
        return self.same_target(f"action={self.action}", *overrides)

    def same_target(self, *overrides: str) -> str:
        """A command line for the same phase, research log and machine, as the run was started."""
        typed_now = {key_of(word) for word in self.settings.typed}
        typed_then = [word for word in self.arguments if key_of(word) not in typed_now]
        is_again = f"action={self.action}" in overrides
        dropped = ("action", "run", "lines", "command") if is_again else OF_ONE_VERB
        replaced = {key_of(word) for word in overrides} | set(dropped)
        words = [*self.settings.typed, *typed_then]
        resumes = any(key_of(word) == "resume" for word in overrides)
        kept = words if is_again and not resumes else without_sweep(words)
        rest = [word for word in kept if key_of(word) not in replaced]
        return line_of(self.settings, *rest, *overrides)

    def line(self, pattern: str) -> str | None:
        """The last line of the log in which the pattern is."""
        found = [line for line in self.log.splitlines() if re.search(pattern, line)]
        return found[-1].strip()[:300] if found else None


def evidence_of(settings: Settings, folder: Path, seen: RunHealth | None = None) -> Evidence:
    """What is here of a run, beside what its machine said."""
    plan = plan_in(folder)
    instance, arguments = plan.get("instance"), plan.get("arguments")
    failed_step = failed_before_start(folder)
    return Evidence(
        settings=settings,
        run=folder.name,
        action=folder.name.partition("-")[2],
        is_local=isinstance(instance, dict) and instance.get("provider") == LOCAL,
        log="\n".join(failed_step.last_lines) if failed_step else tail_of(folder / "log"),
        exit_code=exit_code_in(folder),
        metrics=tail_of(folder.parent.parent / "metrics.jsonl"),
        seen=seen,
        instance_type=instance.get("type") if isinstance(instance, dict) else None,
        arguments=tuple(map(str, arguments)) if isinstance(arguments, list) else (),
        failed_step=failed_step,
        values=_values_of(plan, folder),
        is_sweep=bool(plan.get("members")),
    )


def _values_of(plan: dict[str, Any], folder: Path) -> tuple[tuple[str, Any], ...]:
    """What the job was given, as its plan says; of a sweep the largest number that a member has."""
    shared = plan.get("values")
    found: dict[str, Any] = dict(shared) if isinstance(shared, dict) else {}
    for line in read_lines(folder / CONFIGS):
        for name, value in ({**line.get("load", {}), **line.get("values", {})}).items():
            known = found.get(name)
            if not (_is_number(known) and _is_number(value) and known >= value):
                found[name] = value
    return tuple(found.items())


def _is_number(value: object) -> bool:
    """Whether it can be halved."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# From the smaller GPU memory to the larger: 24, 40, 80 and 96 GB.
_LARGER = ("gpu_1x_a10", "gpu_1x_a100_sxm4", "gpu_1x_h100_pcie", "gpu_1x_gh200")

# Modules that are not called like their package.
_PACKAGES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python-headless"}


@dataclass(frozen=True)
class _Rule:
    """`shown_by` gives the line that shows the symptom, None where it is not there."""

    symptom: str
    shown_by: Callable[[Evidence], str | None]
    cause: str | Callable[[Evidence], str]
    remedy: Callable[[Evidence], str]
    fallback: bool = field(default=False)  # the first of these counts where nothing else is found


def _says(pattern: str) -> Callable[[Evidence], str | None]:
    """Shown by a line of the log of a run that failed or still runs."""
    return lambda evidence: None if evidence.exit_code == 0 else evidence.line(pattern)


def _ended_by(pattern: str) -> Callable[[Evidence], str | None]:
    """Shown by a line of the log of a run that did not go on after it."""

    def shown_by(evidence: Evidence) -> str | None:
        if evidence.is_sweep:  # which goes on with the next member
            return _says(pattern)(evidence)
        return None if evidence.exit_code == 0 else fatal_line(evidence.log.splitlines(), pattern)

    return shown_by


_BATCH = r"(per_device_|train_|micro_)*batch_size"
_ACCUMULATION = r"gradient_accumulation\w*|grad_accum\w*|accumulat\w*"


def _batch_of(evidence: Evidence) -> tuple[str, int] | None:
    """The argument that says how much is computed at once."""
    found = evidence.number("batch_size") or evidence.number(_BATCH)
    return (found[0], int(found[1])) if found else None


def _halve_batch(evidence: Evidence) -> str:
    """Half the batch with twice the accumulation; where that is not possible, more memory."""
    batch = _batch_of(evidence)
    if batch is None or batch[1] <= 1:
        return _see_log(evidence) if evidence.is_local and batch is None else _larger_gpu(evidence)
    name, half = batch[0], batch[1] // 2
    words = [f"batch_size={half}" if _is_shared(evidence, name) else evidence.override(name, half)]
    if steps := evidence.number(_ACCUMULATION):
        words.append(evidence.override(steps[0], int(steps[1]) * 2))
    elif name.startswith("per_device_"):  # of transformers, where it is 1 unless it is said
        words.append("++" + evidence.override("gradient_accumulation_steps", 2))
    if evidence.is_sweep and name == "batch_size" and len(words) == 1:
        return evidence.rerun(f"resume={evidence.run_number}", f"batch_size={half}")  # what is missing of it
    return evidence.rerun(*words)


def _is_shared(evidence: Evidence, name: str) -> bool:
    """Whether the key `batch_size` is what gives this argument its value."""
    typed, phase = set(map(key_of, evidence.arguments)), evidence.settings.phase
    if typed & {f"args.{name}", f"phase.jobs.{evidence.action}.args.{name}"}:
        return False
    return "batch_size" in typed or (name == "batch_size" and (phase is None or phase.batch_size is not None))


def _why_out_of_memory(evidence: Evidence) -> str:
    """The batch, or the model itself."""
    batch = _batch_of(evidence)
    if batch is None or batch[1] > 1:
        return "the batch does not fit into the GPU's memory"
    if evidence.is_local:
        return "the batch is 1 already: this needs more memory than this machine has; one can be rented"
    return "the batch is 1 already: this needs a GPU with more memory"


def _larger_gpu(evidence: Evidence) -> str:
    """The next larger GPU; the log where there is none."""
    now = evidence.instance_type or evidence.settings.instance.choice
    if evidence.is_local or now == LOCAL:
        return evidence.same_target("action=up", f"instance={_LARGER[0]}")
    larger = _LARGER[_LARGER.index(now) + 1 :] if now in _LARGER else _LARGER[-1:]
    return evidence.same_target("action=up", f"instance={larger[0]}") if larger else _see_log(evidence)


_MISSING = r"No module named"


def _missing_module(evidence: Evidence) -> str:
    """The first part of the name of what could not be imported."""
    match = re.search(rf"{_MISSING} '?(\w+)", evidence.line(_MISSING) or "")
    return match[1] if match else "PACKAGE"


def _sibling_of(evidence: Evidence) -> Path | None:
    """The file, or the folder, of the research log that is this module."""
    module = _missing_module(evidence)
    for at, folders, files in os.walk(evidence.settings.paths.research_log):
        folders[:] = sorted(name for name in folders if not _is_made(name))
        if f"{module}.py" in files:
            return Path(at, f"{module}.py")
        if module in folders and Path(at, module, "__init__.py").is_file():
            return Path(at, module)
    return None


def _is_made(folder: str) -> bool:
    """Whether a folder of this name holds what runs and installers make, and no module of a person's own."""
    return folder.startswith((".", "__", "checkpoints")) or folder in ("runs", "samples", "site-packages")


def _stranger(evidence: Evidence) -> str | None:
    """A module that no file of the research log is."""
    line = _ended_by(_MISSING)(evidence)
    return line if line and _sibling_of(evidence) is None else None


def _sibling(evidence: Evidence) -> str | None:
    """A module that is a file of the research log."""
    line = _ended_by(_MISSING)(evidence)
    file = _sibling_of(evidence) if line else None
    return f"{line}; it is {evidence.settings.paths.shown(file)}" if file else None


def _push_sibling(evidence: Evidence) -> str:
    """The job again, with the module where it runs and where Python looks."""
    settings, file = evidence.settings, _sibling_of(evidence)
    assert file
    below = file.relative_to(settings.paths.root)
    words = [f"++phase.jobs.{evidence.action}.env.PYTHONPATH={_in_grammar(str(below.parent))}"]
    if not evidence.is_local:
        inputs = settings.phase.inputs if settings.phase else ()
        words.append(f"phase.inputs=[{','.join(map(_in_grammar, [*inputs, str(below)]))}]")
    return evidence.rerun(*words)


def _in_grammar(text: str) -> str:
    """A value as Hydra's grammar takes it."""
    from runner.config.compose import in_grammar

    return text if re.fullmatch(r"[\w./-]+", text) else in_grammar("", text)[1:]


def _install(evidence: Evidence) -> str:
    """uv, inside the shared environment, with the package that has the module."""
    module = _missing_module(evidence)
    package = _PACKAGES.get(module, module.replace("_", "-"))
    if evidence.is_local:
        deps = evidence.settings.phase.deps if evidence.settings.phase else ()
        return evidence.same_target("action=setup", f"phase.deps=[{','.join([*deps, package])}]")
    return evidence.same_target("action=run", f"command=uv pip install {package}")


def _pull_lfs(evidence: Evidence) -> str:
    """git LFS, in the repository that the files are from."""
    settings = evidence.settings
    if settings.phase and settings.phase.source and not evidence.is_local:
        folder = f"{settings.paths.research_log.name}/{settings.phase.name}"
        return evidence.same_target("action=run", f"command={sh('git', '-C', folder, 'lfs', 'pull').text}")
    return sh("git", "-C", settings.paths.root, "lfs", "pull").text


_NO_CACHE = (
    "No available memory for the cache blocks"
    "|larger than the maximum number of tokens that can be stored in KV cache"
    "|larger than the available KV cache memory"
)


def _fit_cache(evidence: Evidence) -> str:
    """A shorter context where vLLM says which fits, else more of the GPU, else a larger one."""
    line = evidence.line(_NO_CACHE) or ""
    fits = re.search(r"KV cache \((\d+)\)|maximum model length is (\d+)", line)
    length = evidence.number(r"max_model_len|max_seq_len")
    if fits and length:
        return evidence.rerun(evidence.override(length[0], fits[1] or fits[2]))
    share = evidence.number("gpu_memory_utilization")
    if share and share[1] < 0.95:
        return evidence.rerun(evidence.override(share[0], 0.95))
    return _see_log(evidence) if evidence.is_local else _larger_gpu(evidence)


def _see_disk(evidence: Evidence) -> str:
    """What takes the space."""
    return evidence.same_target(
        "action=run", "command=df -h .; du -xh --max-depth=2 ~ . | sort -h | tail -n 20"
    )


def _lower_lr(evidence: Evidence) -> str:
    """A tenth of the learning rate, where the job has one."""
    rate = evidence.number("lr|learning_rate")
    if rate is None:
        return _see_log(evidence)
    return evidence.rerun(evidence.override(rate[0], f"{rate[1] / 10:g}"))


def _see_log(evidence: Evidence) -> str:
    """The end of the log."""
    return evidence.same_target("action=logs", f"run={evidence.run_number}", "lines=100")


def _is_nan(evidence: Evidence) -> str | None:
    """A loss that is not a number, in the log or in the metrics."""
    pattern = r"(?i)\bloss\W{1,4}(nan|inf)\b"
    found = [line for line in evidence.metrics.splitlines() if re.search(pattern, line)]
    return evidence.line(pattern) or (found[-1].strip()[:300] if found else None)


def _kernel_killed(evidence: Evidence) -> str | None:
    """The kernel's own words, for a run that ended with KILL."""
    oom = evidence.seen.oom_line if evidence.seen else ""
    return f"exit code 137; {oom}" if oom and _ended_with(evidence) in (137, None) else None


def _killed(evidence: Evidence) -> str | None:
    """KILL, where nobody can say that it was the kernel's."""
    return "exit code 137" if _ended_with(evidence) == 137 and not _kernel_killed(evidence) else None


def _ended_with(evidence: Evidence) -> int | None:
    """The exit code, from here or from the machine."""
    there = evidence.seen.exit_code if evidence.seen else None
    return evidence.exit_code if evidence.exit_code is not None else there


def _gone(evidence: Evidence) -> str | None:
    """No process, no exit code."""
    if evidence.seen and evidence.seen.state is RunState.LOST:
        return f"{evidence.run}: no process of it is alive on the machine, and it left no exit code"
    return None


def _disk_full(evidence: Evidence) -> str | None:
    """In the job's words, or in those of df."""
    if line := _says(r"No space left on device|Errno 28|Disk quota exceeded")(evidence):
        return line
    full = evidence.seen and evidence.seen.disk_percent is not None and evidence.seen.disk_percent >= 99
    return evidence.seen.disk_line if evidence.seen and full else None


def _hangs(evidence: Evidence) -> str | None:
    """Alive, and for long without a word while no GPU works."""
    seen, limit_s = evidence.seen, evidence.settings.doctor_silent_s
    if seen is None or seen.state is not RunState.RUNNING or (seen.silent_s or 0) < limit_s:
        return None
    return f"no output for {(seen.silent_s or 0) // 60} min, GPU at 0 %" if not seen.gpu_percent else None


def _never_started(evidence: Evidence) -> str | None:
    """The last words of a step that failed before the job."""
    step = evidence.failed_step
    if step is None:
        return None
    said = last_words(step.last_lines) or "without a word"
    return f"its step {step.name} ended with exit code {step.exit_code}: {said}"


def _stopped(evidence: Evidence) -> str | None:
    """Ended from outside, and politely."""
    code = _ended_with(evidence)
    return f"exit code {code}" if code in (130, 143) else None


def _failed(evidence: Evidence) -> str | None:
    """The last words of a job that failed."""
    code = _ended_with(evidence)
    if not code:
        return None
    said = last_words(evidence.log.splitlines())
    return f"exit code {code}: {said}" if said else f"exit code {code}, without a word"


_RULES = (
    _Rule(
        "CUDA out of memory",
        _ended_by(
            r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
        ),
        _why_out_of_memory,
        _halve_batch,
    ),
    _Rule(
        "CUDA error 802",
        _says(r"(?i)error 802|cudaErrorSystemNotReady|system not yet initialized"),
        "this machine's GPU will never work, though nvidia-smi looks healthy: it is the host's fault",
        lambda evidence: evidence.same_target("action=terminate"),
    ),
    _Rule(
        "killed by the kernel",
        _kernel_killed,
        "the machine's memory (not the GPU's) was used up, and the kernel ended the largest process",
        _halve_batch,
    ),
    _Rule(
        "module missing",
        _stranger,
        "the shared environment lacks a package that the script imports",
        _install,
    ),
    _Rule(
        "a module of the research log is not found",
        _sibling,
        "no package but a file here: it has to be on the machine (phase.inputs), and where Python looks",
        _push_sibling,
    ),
    _Rule(
        "a pointer of git LFS in place of the file",
        _ended_by(r"version https://git-lfs\.github\.com/spec|invalid load key, 'v'"),
        "what should be weights or data is a few lines by which git LFS finds them; they were never fetched",
        _pull_lfs,
    ),
    _Rule(
        "vLLM finds no room for its cache",
        _ended_by(_NO_CACHE),
        "what the model leaves of the GPU's memory is too little for a context of this length "
        "(max_model_len, gpu_memory_utilization)",
        _fit_cache,
    ),
    _Rule("disk full", _disk_full, "nothing more can be written there, checkpoints included", _see_disk),
    _Rule(
        "the loss is not a number",
        _is_nan,
        "training diverged: what is computed after this is worth nothing",
        _lower_lr,
    ),
    _Rule(
        "the run is lost",
        _gone,
        "the machine restarted, or the process was killed with -9; checkpoints are where they were",
        lambda evidence: evidence.rerun(),
    ),
    _Rule(
        "the run hangs",
        _hangs,
        "its processes wait for something that does not come, and the machine is paid for meanwhile",
        lambda evidence: evidence.same_target("action=stop", f"run={evidence.run_number}"),
    ),
    _Rule(
        "the job never started",
        _never_started,
        "a step before it failed; nothing of this run is on the machine",
        lambda evidence: evidence.rerun(),
        fallback=True,
    ),
    _Rule(
        "a start-up file on the machine prints",
        _says("protocol version mismatch|is your shell clean"),
        "rsync takes it for an answer: put `case $- in *i*) ;; *) return;; esac` first in its ~/.bashrc",
        lambda evidence: evidence.same_target("action=doctor"),
    ),
    _Rule(
        "killed with -9",
        _killed,
        "the kernel's doing when memory is used up (dmesg says so); else a person's, or a restart",
        lambda evidence: evidence.rerun(),
        fallback=True,
    ),
    _Rule(
        "the run was stopped",
        _stopped,
        "somebody ended it: action=stop, Ctrl-C, or a TERM of the machine's own",
        lambda evidence: evidence.rerun(),
    ),
    _Rule(
        "the job failed", _failed, "the script's own error; its last lines say more", _see_log, fallback=True
    ),
)


def diagnose(evidence: Evidence, guesses: bool = True) -> tuple[Diagnosis, ...]:
    """Every rule that applies, the person's own first; `guesses` only where nothing else is found."""
    rules = (*map(_own_rule, evidence.settings.doctor_rules), *_RULES)
    found = [(rule, line) for rule in rules if (line := rule.shown_by(evidence))]
    sure = [pair for pair in found if not pair[0].fallback]
    return tuple(
        Diagnosis(rule.symptom, line, _cause_of(rule, evidence), rule.remedy(evidence))
        for rule, line in sure or (found[:1] if guesses else [])
    )


def _cause_of(rule: _Rule, evidence: Evidence) -> str:
    """The cause, where it depends on the run that of this one."""
    return rule.cause if isinstance(rule.cause, str) else rule.cause(evidence)


def _own_rule(rule: DoctorRule) -> _Rule:
    """A rule from the YAML: a pattern for a line of the log."""
    return _Rule(rule.symptom, _says(rule.pattern), rule.cause, lambda _: rule.remedy)

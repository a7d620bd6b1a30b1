"""What went wrong with a job: the evidence that its run left, and the rules that read it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runner.machines.probe import SshAnswer, read_answer
from runner.plan.command import Route
from runner.plan.next_command import OF_ONE_VERB, key_of, line_of, without_sweep
from runner.plan.settings import LOCAL, DoctorRule, Settings
from runner.research_log.runs import (
    FailedStep,
    RunState,
    exit_code_in,
    failed_before_start,
    plan_in,
    tail_of,
)
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
    command: str
    is_local: bool
    log: str
    exit_code: int | None
    metrics: str = ""
    seen: RunHealth | None = None
    instance_type: str | None = None
    arguments: tuple[str, ...] = ()  # with which the run was started
    failed_step: FailedStep | None = None  # before the job

    def argument(self, *names: str) -> tuple[str, str] | None:
        """The first of these arguments that the job was started with, and its value."""
        for name in names:
            if match := re.search(rf"--({name})=([^\s']+)", self.command):
                return match[1], match[2]
        return None

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
        kept = words if is_again else without_sweep(words)
        rest = [word for word in kept if key_of(word) not in replaced]
        return line_of(self.settings, *rest, *overrides)

    def line(self, pattern: str) -> str | None:
        """The last line of the log in which the pattern is."""
        found = [line for line in self.log.splitlines() if re.search(pattern, line)]
        return found[-1].strip()[:300] if found else None


def evidence_of(settings: Settings, folder: Path, seen: RunHealth | None = None) -> Evidence:
    """What is here of a run, beside what its machine said."""
    plan = plan_in(folder)
    steps = plan.get("steps")
    commands = [str(step.get("command", "")) for step in steps] if isinstance(steps, list) else []
    instance, arguments = plan.get("instance"), plan.get("arguments")
    failed_step = failed_before_start(folder)
    return Evidence(
        settings=settings,
        run=folder.name,
        action=folder.name.partition("-")[2],
        command="\n".join(commands),
        is_local=isinstance(instance, dict) and instance.get("provider") == LOCAL,
        log="\n".join(failed_step.last_lines) if failed_step else tail_of(folder / "log"),
        exit_code=exit_code_in(folder),
        metrics=tail_of(folder.parent.parent / "metrics.jsonl"),
        seen=seen,
        instance_type=instance.get("type") if isinstance(instance, dict) else None,
        arguments=tuple(map(str, arguments)) if isinstance(arguments, list) else (),
        failed_step=failed_step,
    )


# From the smaller GPU memory to the larger: 24, 40, 80 and 96 GB.
_LARGER = ("gpu_1x_a10", "gpu_1x_a100_sxm4", "gpu_1x_h100_pcie", "gpu_1x_gh200")

# Modules that are not called like their package.
_PACKAGES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python-headless"}


@dataclass(frozen=True)
class _Rule:
    """`shown_by` gives the line that shows the symptom, None where it is not there."""

    symptom: str
    shown_by: Callable[[Evidence], str | None]
    cause: str
    remedy: Callable[[Evidence], str]
    fallback: bool = field(default=False)  # the first of these counts where nothing else is found


def _says(pattern: str) -> Callable[[Evidence], str | None]:
    """Shown by a line of the log of a run that failed or still runs."""
    return lambda evidence: None if evidence.exit_code == 0 else evidence.line(pattern)


def _halve_batch(evidence: Evidence) -> str:
    """Half the batch with twice the accumulation; at batch 1 the next larger machine."""
    batch = evidence.argument("batch_size")
    size = int(batch[1]) if batch and batch[1].isdigit() else 1
    if size == 1:
        return _larger_gpu(evidence)
    words = [f"batch_size={size // 2}"]
    if steps := evidence.argument(r"gradient_accumulation\w*", r"grad_accum\w*", r"accumulat\w*"):
        doubled = int(steps[1]) * 2 if steps[1].isdigit() else 2
        words.append(f"phase.jobs.{evidence.action}.args.{steps[0]}={doubled}")
    return evidence.rerun(*words)


def _larger_gpu(evidence: Evidence) -> str:
    """The next larger GPU."""
    now = evidence.instance_type or evidence.settings.instance.choice
    place = _LARGER.index(now) + 1 if now in _LARGER else 0
    return evidence.same_target("action=up", f"instance={_LARGER[min(place, len(_LARGER) - 1)]}")


def _install(evidence: Evidence) -> str:
    """uv, inside the shared environment, with the package that has the module."""
    line = evidence.line(r"No module named") or ""
    match = re.search(r"No module named '?([\w]+)", line)
    module = match[1] if match else "PACKAGE"
    package = _PACKAGES.get(module, module.replace("_", "-"))
    if evidence.is_local:
        deps = evidence.settings.phase.deps if evidence.settings.phase else ()
        return evidence.same_target("action=setup", f"phase.deps=[{','.join([*deps, package])}]")
    return evidence.same_target("action=run", f"command=uv pip install {package}")


def _see_disk(evidence: Evidence) -> str:
    """What takes the space."""
    return evidence.same_target(
        "action=run", "command=df -h .; du -xh --max-depth=2 ~ . | sort -h | tail -n 20"
    )


def _lower_lr(evidence: Evidence) -> str:
    """A tenth of the learning rate, where the job has one."""
    rate = evidence.argument("lr", "learning_rate")
    if rate is None:
        return _see_log(evidence)
    tenth = f"{float(rate[1]) / 10:g}" if re.fullmatch(r"[\d.e+-]+", rate[1]) else rate[1]
    return evidence.rerun(f"phase.jobs.{evidence.action}.args.{rate[0]}={tenth}")


def _see_log(evidence: Evidence) -> str:
    """The end of the log."""
    return evidence.same_target("action=logs", f"run={evidence.run.partition('-')[0]}", "lines=100")


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
    said = step.last_lines[-1].strip()[:300] if step.last_lines else "without a word"
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
    lines = [line for line in evidence.log.splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1].strip()[:300]}" if lines else f"exit code {code}, without a word"


_RULES = (
    _Rule(
        "CUDA out of memory",
        _says(r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"),
        "the batch does not fit into the GPU's memory",
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
        _says(r"ModuleNotFoundError|No module named"),
        "the shared environment lacks a package that the script imports",
        _install,
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
        lambda evidence: evidence.same_target("action=stop", f"run={evidence.run.partition('-')[0]}"),
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
        Diagnosis(rule.symptom, line, rule.cause, rule.remedy(evidence))
        for rule, line in sure or (found[:1] if guesses else [])
    )


def _own_rule(rule: DoctorRule) -> _Rule:
    """A rule from the YAML: a pattern for a line of the log."""
    return _Rule(rule.symptom, _says(rule.pattern), rule.cause, lambda _: rule.remedy)

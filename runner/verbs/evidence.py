"""All that is known of a run, and the command lines that would mend it."""

import re
from dataclasses import dataclass
from pathlib import Path

from runner.facts.health import FailedStep, Seen, exit_code_in, failed_before_start, plan_in, tail_of
from runner.plan.settings import LOCAL, Settings
from runner.verbs.own_line import OF_ONE_VERB, key_of, line_of, single


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
    seen: Seen | None = None
    instance_type: str | None = None
    arguments: tuple[str, ...] = ()  # with which the run was started
    failed_step: FailedStep | None = None  # before the job

    def argument(self, *names: str) -> tuple[str, str] | None:
        """The first of these arguments that the job was started with, and its value."""
        for name in names:
            if match := re.search(rf"--({name})=([^\s']+)", self.command):
                return match[1], match[2]
        return None

    def again(self, *overrides: str) -> str:
        """The command line that starts the job again with these overrides."""
        return self.typed(f"action={self.action}", *overrides)

    def typed(self, *overrides: str) -> str:
        """A command line for the same phase, research log and machine, as the run was started."""
        typed_now = {key_of(word) for word in self.settings.typed}
        typed_then = [word for word in self.arguments if key_of(word) not in typed_now]
        is_again = f"action={self.action}" in overrides
        dropped = ("action", "run", "lines", "command") if is_again else OF_ONE_VERB
        replaced = {key_of(word) for word in overrides} | set(dropped)
        words = [*self.settings.typed, *typed_then]
        kept = words if is_again else single(words)
        rest = [word for word in kept if key_of(word) not in replaced]
        return line_of(self.settings, *rest, *overrides)

    def line(self, pattern: str) -> str | None:
        """The last line of the log in which the pattern is."""
        found = [line for line in self.log.splitlines() if re.search(pattern, line)]
        return found[-1].strip()[:300] if found else None


def evidence_of(settings: Settings, folder: Path, seen: Seen | None = None) -> Evidence:
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

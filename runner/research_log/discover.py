"""discover: the phases of the research log, which one is current, and what to type next."""

import shlex
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.plan.next_command import line_of, places
from runner.plan.settings import Settings
from runner.research_log.phases import PhaseFolder, State, file_to_write, phase_files, phase_folders
from runner.world.world import Asking


@dataclass(frozen=True)
class DiscoveredPhase:
    """A phase folder and the jobs that conf/phase/ declares for it; `choice` is the file's name."""

    folder: PhaseFolder
    choice: str | None
    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Discovery:
    """The report of `discover`; `problems` are for the person, not for the data."""

    current: str | None
    next: str
    phases: tuple[DiscoveredPhase, ...]
    problems: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As runner.discover/1."""
        return {
            "format": "runner.discover/1",
            "current": self.current,
            "next": self.next,
            "phases": [
                {
                    "name": phase.folder.name,
                    "number": _plain_number(phase.folder.number),
                    "state": phase.folder.state.value,
                    "path": str(phase.folder.path),
                    "jobs": list(phase.jobs),
                }
                for phase in self.phases
            ],
        }


def _plain_number(number: Decimal) -> int | float:
    """11 rather than 11.0, 2.5 as it is."""
    return int(number) if number == number.to_integral_value() else float(number)


def discover(settings: Settings) -> Asking[Discovery]:
    """Asks nothing: the folders are the truth."""
    yield from ()
    log = settings.paths.research_log
    if not log.is_dir():
        raise UsageError(
            f"{log}: there is no such folder, so there are no phases",
            "Say where the phases are: paths.research_log=DIR",
        )
    declared = _declared_jobs(settings.paths.conf)
    phases = tuple(
        DiscoveredPhase(folder, *declared.get(folder.name, (None, ()))) for folder in phase_folders(log)
    )
    current = phases[-1] if phases else None
    name = current.folder.name if current else None
    taken = {choice for choice, _ in declared.values()}
    return Discovery(name, _what_next(current, taken, settings), phases, _broken_files(settings))


def _declared_jobs(folders: tuple[Path, ...]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Phase folder → (its choice, its jobs), from the YAML files; an unreadable one declares nothing."""
    from runner.config.mistakes import jobs_of

    files = phase_files(folders)
    return {name: (choice, jobs) for choice, file in files for name, jobs in jobs_of(file)}


def _broken_files(settings: Settings) -> tuple[str, ...]:
    """What is wrong with phase files, a line each: their phases have no jobs until it is mended."""
    from runner.config.mistakes import problem_in, unread

    folders, cwd = settings.paths.conf, settings.paths.cwd
    found = (problem_in(file, "phase", folders, cwd) for _, file in phase_files(folders))
    other = (file for folder in folders for file in sorted((folder / "phase").glob("*.yml")))
    return (*(problem.message for problem in found if problem), *map(unread, other))


def _what_next(current: DiscoveredPhase | None, taken: set[str], settings: Settings) -> str:
    """The command that the current phase's state asks for."""
    log = settings.paths.shown(settings.paths.research_log)
    if current is None:
        return shlex.join(["mkdir", "-p", f"{log}/phase1-first-question"])
    folder, state = current.folder, current.folder.state
    if state is State.COMPLETE:
        return shlex.join(["mkdir", f"{log}/phase{int(folder.number) + 1}-next-question"])
    if state is State.EMPTY:
        return f"${{EDITOR:-vi}} {shlex.quote(settings.paths.shown(folder.path / 'PLAN.md'))}"
    if not current.jobs:
        return f"${{EDITOR:-vi}} {shlex.quote(settings.paths.shown(_yaml_of(current, taken, settings)))}"
    return line_of(settings, f"phase={current.choice}", f"action={current.jobs[0]}", *places(settings))


def _yaml_of(phase: DiscoveredPhase, taken: set[str], settings: Settings) -> Path:
    """The file that declares the phase, or the one to write, which is no other phase's."""
    files = dict(phase_files(settings.paths.conf))
    if phase.choice:
        return files[phase.choice]
    return file_to_write(phase.folder.name, settings.paths.conf, taken)

"""The phases of the research log: their folders, their states, their files in conf/."""

import re
from collections.abc import Container
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

_PHASE_FOLDER = re.compile(r"phase(\d+(?:\.\d+)?)")


class State(StrEnum):
    """How far a phase is, read off its files."""

    COMPLETE = "COMPLETE"
    ACTIVE = "ACTIVE"
    PENDING = "PENDING"
    EMPTY = "EMPTY"


@dataclass(frozen=True)
class PhaseFolder:
    """A folder `phase<number>…` of the research log."""

    name: str
    number: Decimal
    path: Path
    state: State


def phase_folders(research_log: Path) -> tuple[PhaseFolder, ...]:
    """All phases, in numeric order; twins (two folders with one number) by name."""
    found = [
        PhaseFolder(path.name, Decimal(match[1]), path, _state_of(path, match[1]))
        for path in research_log.iterdir()
        if (match := _PHASE_FOLDER.match(path.name)) and path.is_dir()
    ]
    return tuple(sorted(found, key=lambda phase: (phase.number, phase.name)))


def _state_of(folder: Path, number: str) -> State:
    """COMPLETE with results, else ACTIVE with traces of a run, else PENDING with a plan, else EMPTY."""
    names = {path.name for path in folder.iterdir()}
    runs = folder / "runs"
    if names & {"RESULTS.md", f"RESULTS_PHASE{number}.md"}:
        return State.COMPLETE
    ran = runs.is_dir() and any(runs.iterdir())
    if ran or "run.log" in names or any(_is_checkpoints(folder / name) for name in names):
        return State.ACTIVE
    if any(name == "PLAN.md" or re.fullmatch(r"PLAN_.*\.md", name) for name in names):
        return State.PENDING
    return State.EMPTY


def _is_checkpoints(path: Path) -> bool:
    """Whether this is a folder of checkpoints, by its name."""
    return path.name.startswith("checkpoints") and path.is_dir()


def phase_files(folders: tuple[Path, ...]) -> tuple[tuple[str, Path], ...]:
    """(choice, file) of every phase; a later folder's file stands for an earlier one's of the same name."""
    found = {file.stem: file for folder in folders for file in sorted((folder / "phase").glob("*.yaml"))}
    return tuple(sorted(found.items()))


def file_to_write(folder: str, folders: tuple[Path, ...], taken: Container[str] = ()) -> Path:
    """Where the YAML of a phase's folder belongs: `phase14.yaml`, or its whole name where a twin took that.

    It is in the last of the folders of configuration. `taken` are the files that declare another phase.
    """
    match = _PHASE_FOLDER.match(folder)
    short = match[0] if match else folder
    return folders[-1] / "phase" / f"{folder if short in taken else short}.yaml"

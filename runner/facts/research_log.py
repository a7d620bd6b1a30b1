"""What the research log holds: its phases and their states, the runs of a phase, the code of a phase."""

import os
import re
import stat
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

from runner.facts.fact import Fact, Result
from runner.plan.command import sh

PHASE_FOLDER = re.compile(r"phase(\d+(?:\.\d+)?)")
RUN_FOLDER = re.compile(r"(\d+)-(.+)")


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
        PhaseFolder(path.name, Decimal(match[1]), path, state_of(path, match[1]))
        for path in research_log.iterdir()
        if (match := PHASE_FOLDER.match(path.name)) and path.is_dir()
    ]
    return tuple(sorted(found, key=lambda phase: (phase.number, phase.name)))


def state_of(folder: Path, number: str) -> State:
    """COMPLETE with results, else ACTIVE with traces of a run, else PENDING with a plan, else EMPTY."""
    names = {path.name for path in folder.iterdir()}
    runs = folder / "runs"
    if names & {"RESULTS.md", f"RESULTS_PHASE{number}.md"}:
        return State.COMPLETE
    ran = runs.is_dir() and any(runs.iterdir())
    if ran or "run.log" in names or any(is_checkpoints(folder / name) for name in names):
        return State.ACTIVE
    if any(name == "PLAN.md" or re.fullmatch(r"PLAN_.*\.md", name) for name in names):
        return State.PENDING
    return State.EMPTY


def is_checkpoints(path: Path) -> bool:
    """Whether this is a folder of checkpoints, by its name."""
    return path.name.startswith("checkpoints") and path.is_dir()


# ------------------------------------------------------------------------------------ runs


@dataclass(frozen=True)
class RunPaths:
    """The only place that knows the file names of a run. `folder` is relative to the root."""

    folder: PurePosixPath

    @staticmethod
    def of(research_log: str, phase: str, run: str) -> "RunPaths":
        """The run's paths below the root, the same here and on a machine."""
        return RunPaths(PurePosixPath(research_log, phase, "runs", run))

    @property
    def log(self) -> PurePosixPath:
        """Everything the job printed."""
        return self.folder / "log"

    @property
    def plan(self) -> PurePosixPath:
        """The plan as it was consented to."""
        return self.folder / "plan.json"

    @property
    def result(self) -> PurePosixPath:
        """What came of it; there once the run is over."""
        return self.folder / "result.json"

    @property
    def pid(self) -> PurePosixPath:
        """The process (and group) of the running job."""
        return self.folder / "pid"

    @property
    def exit_code(self) -> PurePosixPath:
        """The job's own exit code, written last."""
        return self.folder / "exit_code"

    @property
    def newest_log(self) -> PurePosixPath:
        """The link `run.log` of the phase."""
        return self.folder.parent.parent / "run.log"


def run_names(phase_folder: Path) -> tuple[str, ...]:
    """The run folders of a phase, oldest first."""
    runs = phase_folder / "runs"
    if not runs.is_dir():
        return ()
    found = [
        (int(match[1]), path.name) for path in runs.iterdir() if (match := RUN_FOLDER.fullmatch(path.name))
    ]
    return tuple(name for _, name in sorted(found))


def next_run(phase_folder: Path, job: str, wanted: str | None = None) -> str:
    """`0004-train`: one more than the highest number there is, or a higher one that is wanted."""
    names = run_names(phase_folder)
    number = int(names[-1].split("-")[0]) + 1 if names else 1
    if wanted and wanted.isdigit():
        number = max(number, int(wanted))
    return f"{number:04d}-{job}"


def find_run(phase_folder: Path, wanted: str | None) -> str | None:
    """The run meant by 3, 0003 or 0003-train; the newest for None."""
    names = run_names(phase_folder)
    if wanted is None:
        return names[-1] if names else None
    if wanted.isdigit():
        return next((name for name in names if int(name.split("-")[0]) == int(wanted)), None)
    return wanted if wanted in names else None


# ------------------------------------------------------------------------------------ code


@dataclass(frozen=True)
class Code:
    """The files of a phase that git would carry, with what is in them."""

    files: tuple[str, ...]
    num_bytes: int
    digest: str
    submodules: tuple[str, ...] = ()


def code_of(root: Path, phase: str, artifacts: tuple[str, ...]) -> Fact[Code]:
    """The code of a phase; `phase` is its folder, relative to `root`. Outside git, all of its files.

    `runs/`, `run.log`, environments and artifacts are never code, ignored by git or not.
    """
    ask = sh(
        *("git", "-C", root, "--no-optional-locks", "--literal-pathspecs"),
        *("ls-files", "-co", "--exclude-standard", "-z", "--", phase),
    )

    def read(result: Result) -> Code:
        if result.ok:
            listed = [os.fsdecode(name) for name in result.stdout.split(b"\0") if name]
        else:
            listed = [str(path.relative_to(root)) for path in walk(root / phase)]
        return code_in(root, phase, sorted(set(listed)), artifacts)

    return Fact(ask, read)


def walk(folder: Path) -> list[Path]:
    """All files below a folder, links not followed."""
    return [Path(at, name) for at, _, names in os.walk(folder) for name in names]


def code_in(root: Path, phase: str, listed: list[str], artifacts: tuple[str, ...]) -> Code:
    """Size and digest of the listed files that are code and are still there."""
    total, digest, files, submodules = 0, sha256(), [], []
    for name in listed:
        path = root / name
        if is_product(str(PurePosixPath(name).relative_to(phase)), artifacts) or not os.path.lexists(path):
            continue
        if path.is_dir() and not path.is_symlink():
            submodules.append(name)  # git lists a submodule as one entry, its folder
            continue
        info = path.lstat()
        if stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            executable = bool(info.st_mode & stat.S_IXUSR)
            digest.update(f"{name!r} {executable} {content_digest(path)}\n".encode())
            total += info.st_size
            files.append(name)
    return Code(tuple(files), total, digest.hexdigest()[:12], tuple(submodules))


def content_digest(path: Path) -> str:
    """sha256 of a file's content, or of what a link says."""
    if path.is_symlink():
        return sha256(os.fsencode(path.readlink())).hexdigest()
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def is_product(name: str, artifacts: tuple[str, ...]) -> bool:
    """Whether a file (relative to the phase) is something a run made rather than code."""
    parts = PurePosixPath(name).parts
    if not parts:
        return False  # the folder itself, as git names a clone
    if parts[0] in ("runs", "run.log", ".venv") or "__pycache__" in parts:
        return True
    return any(PurePosixPath(name).is_relative_to(artifact.rstrip("/")) for artifact in artifacts)


@dataclass(frozen=True)
class Revision:
    """The commit the tree is at and the files of the phase that differ from it; no commit outside git."""

    commit: str | None
    changed: tuple[str, ...] = ()


def revision_of(root: Path, phase: str, artifacts: tuple[str, ...]) -> Fact[Revision]:
    """The revision of the phase's code, for people: the digest is of the content itself."""
    ask = sh(
        *("git", "-C", root, "--no-optional-locks", "--literal-pathspecs"),
        *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--", phase),
    )

    def read(result: Result) -> Revision:
        if not result.ok:
            return Revision(None)
        fields = [os.fsdecode(entry) for entry in result.stdout.split(b"\0") if entry]
        commit = next((f.split()[-1] for f in fields if f.startswith("# branch.oid")), "")
        paths = [f.split(" ", 8)[8] for f in fields if f.startswith("1 ")]
        paths += [f[2:] for f in fields if f.startswith("? ")]
        below = (p.partition(f"{phase}/")[2] for p in paths)  # git names them from its own root
        names = sorted(PurePosixPath(p).name for p in below if p and not is_product(p, artifacts))
        return Revision(commit[:7] if re.fullmatch(r"[0-9a-f]{40,64}", commit) else None, tuple(names))

    return Fact(ask, read)

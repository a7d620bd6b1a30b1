"""The code of a phase: its files, their digest, and the git revision they come from."""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

from runner.plan.command import Command, sh
from runner.plan.plan import Revision
from runner.world.world import Asking, Fact, Result

# ------------------------------------------------------------------------------------ code


@dataclass(frozen=True)
class Code:
    """The files of a phase that git would carry, with what is in them."""

    files: tuple[str, ...]
    num_bytes: int
    digest: str
    submodules: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()  # the sha256 of each file
    is_in_git: bool = True
    gone: tuple[str, ...] = ()  # what git lists and is not here any more, relative to the phase's folder
    git_error: str = ""  # what git says where it fails, and not because there is no repository


# What would lead git away from the folder that it is asked about.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")


def _git(folder: Path, *words: str) -> Command:
    """What git is asked of a folder; it answers in English, and writes nothing."""
    plain = ("--no-optional-locks", "--literal-pathspecs")
    return sh("git", "-C", folder, *plain, *words)


def code_of(root: Path, phase: str, artifacts: tuple[str, ...]) -> Fact[Code]:
    """The code of a phase; `phase` is its folder, relative to `root`. Outside git, all of its files.

    `runs/`, `run.log`, environments and artifacts are never code, ignored by git or not.
    """
    ask = _git(root, "ls-files", "-co", "--exclude-standard", "-z", "--", phase)

    def read(result: Result) -> Code:
        if result.ok:
            listed = [os.fsdecode(name) for name in result.stdout.split(b"\0") if name]
        else:
            listed = [str(path.relative_to(root)) for path in _walk(root / phase)]
        code = _code_in(root, phase, sorted(set(listed)), artifacts)
        gone = tuple(sorted({n[len(phase) + 1 :] for n in listed if not os.path.lexists(root / n)}))
        return replace(code, is_in_git=result.ok, gone=gone, git_error=_error_of(root / phase, result))

    return Fact(ask, read)


def _error_of(folder: Path, result: Result) -> str:
    """git's own words where it is there and fails; empty where there is no git, or no repository."""
    said = result.stderr.decode(errors="replace").strip()
    if result.ok or result.exit_code == 127 or said.startswith("xcrun: "):  # macOS's stand-in for git
        return ""
    has_repository = any(os.path.lexists(above / ".git") for above in (folder, *folder.parents))
    if "not a git repository (or any" in said and not has_repository:
        return ""
    return said or f"git ended with exit code {result.exit_code}"


def _walk(folder: Path) -> list[Path]:
    """All files below a folder, links not followed."""
    return [Path(at, name) for at, _, names in os.walk(folder) for name in names]


def _code_in(root: Path, phase: str, listed: list[str], artifacts: tuple[str, ...]) -> Code:
    """Size and digest of the listed files that are code and are still there."""
    total, digest, files, submodules, sums = 0, sha256(), [], [], []
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
            sums.append(_content_digest(path))
            digest.update(f"{name!r} {executable} {sums[-1]}\n".encode())
            total += info.st_size
            files.append(name)
    return Code(tuple(files), total, digest.hexdigest()[:12], tuple(submodules), tuple(sums))


def _content_digest(path: Path) -> str:
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


def ask_revision(root: Path, phase: str, artifacts: tuple[str, ...], yaml: Path | None) -> Asking[Revision]:
    """The revision of the phase's code, for people (the digest is of the content itself), and of its YAML."""
    found: Revision = yield _revision_of(root, phase, artifacts)
    if yaml is None or found == Revision(None):
        return found
    changed: tuple[str, ...] = yield _changed_in(yaml)
    return replace(found, changed=tuple(sorted((*found.changed, *changed))))


def _revision_of(root: Path, phase: str, artifacts: tuple[str, ...]) -> Fact[Revision]:
    """Without a commit outside git, and where git fails."""
    ask = _git(root, *_STATUS, "--branch", "--", phase)

    def read(result: Result) -> Revision:
        if not result.ok:
            return Revision(None)
        fields = _fields_of(result)
        commit = next((f.split()[-1] for f in fields if f.startswith("# branch.oid")), "")
        below = (p.partition(f"{phase}/")[2] for p in _changed_paths(fields))  # git names them from its root
        names = sorted(PurePosixPath(p).name for p in below if p and not is_product(p, artifacts))
        return Revision(commit[:7] if re.fullmatch(r"[0-9a-f]{40,64}", commit) else None, tuple(names))

    return Fact(ask, read)


def _changed_in(yaml: Path) -> Fact[tuple[str, ...]]:
    """The name of this file where it is new or changed; it may be in another repository than the phase."""
    ask = _git(yaml.parent, *_STATUS, "--", yaml.name)
    return Fact(ask, lambda result: (yaml.name,) if result.ok and _changed_paths(_fields_of(result)) else ())


_STATUS = ("status", "--porcelain=v2", "-z", "--untracked-files=all")
_BEFORE_PATH = {
    "1": 8,
    "2": 9,
    "u": 10,
    "?": 1,
}  # how many words stand before the path in a line of that kind


def _fields_of(result: Result) -> list[str]:
    """What stands between the NULs."""
    return [os.fsdecode(entry) for entry in result.stdout.split(b"\0") if entry]


def _changed_paths(fields: Sequence[str]) -> list[str]:
    """What is changed, renamed, unmerged or new; behind what was renamed comes the path that it had."""
    found, rest = [], iter(fields)
    for entry in rest:
        kind = entry[0]
        if kind in _BEFORE_PATH:
            found.append(entry.split(" ", _BEFORE_PATH[kind])[-1])
        if kind == "2":
            next(rest, None)
    return found

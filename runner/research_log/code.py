"""The code of a phase: its files, their digest, and the git revision they come from."""

import os
import re
import stat
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

from runner.plan.command import sh
from runner.plan.plan import Revision
from runner.world.world import Fact, Result

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
            listed = [str(path.relative_to(root)) for path in _walk(root / phase)]
        code = _code_in(root, phase, sorted(set(listed)), artifacts)
        gone = tuple(sorted({n[len(phase) + 1 :] for n in listed if not os.path.lexists(root / n)}))
        return replace(code, is_in_git=result.ok, gone=gone)

    return Fact(ask, read)


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

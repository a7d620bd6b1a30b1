"""sync and backup: the phase's code to the machine, and what its jobs made back home, both verified."""

import json
import os
import re
from pathlib import Path, PurePosixPath

from runner.environment.setup import needed_phase
from runner.errors import CheckFailed, UsageError
from runner.executors.base import Submission
from runner.executors.ssh import Remote, remote_of
from runner.plan.command import Command, quote, sh
from runner.plan.plan import HERE, Effect, Plan, Step, target_of
from runner.plan.settings import Phase, Settings
from runner.plan.tools import Tool
from runner.research_log.code import Code, code_of
from runner.world.world import Asking


def sync(settings: Settings) -> Asking[Plan]:
    """The phase's code on the machine, and nothing of what its runs made."""
    phase = needed_phase(settings)
    code: Code = yield code_of(settings.paths.root, _folder_of(settings, phase), phase.artifacts)
    local = settings.instance.is_local
    return Plan(
        action="sync",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=() if local else (sync_step(settings, phase, code),),
        basis=(("machine", settings.alias), ("code", code.digest)),
        reason="jobs on this machine run in this very folder" if local else None,
        details=(("code", f"{len(code.files)} files, {_shown_bytes(code.num_bytes)}, {code.digest}"),),
    )


def _folder_of(settings: Settings, phase: Phase) -> str:
    """The phase's folder, relative to the root."""
    return f"{settings.paths.research_log.name}/{phase.name}"


def sync_step(settings: Settings, phase: Phase, code: Code, submission: Submission | None = None) -> Step:
    """Push what git lists and what the phase names, or clone where the code comes from.

    For a `submission` only where its run's name is not another plan's: that one's code may be running.
    """
    remote = remote_of(settings)
    if phase.source:
        return Step(
            "sync",
            _clone(remote, _folder_of(settings, phase), phase, submission),
            on=remote.alias,
            reason=f"{phase.source.git} at {phase.source.ref}",
            tools=remote.tools,
            repeats=True,
        )
    if code.git_error:
        said, *more = code.git_error.splitlines()
        raise CheckFailed(
            f"{_folder_of(settings, phase)}: {said}",
            *(line.strip() for line in more if line.strip()),
            "Nothing was pushed: without git's own list, what it ignores would be among it (.env, data).",
        )
    if code.submodules:
        raise UsageError(
            f"{code.submodules[0]} is a git repository of its own inside {phase.name}: pushed without its "
            ".git folder it would not work on the machine",
            "Have it cloned there, by the phase's YAML: source: {git: URL, ref: COMMIT}",
        )
    inputs = _input_files(settings, phase)
    num = len(code.files) + len(inputs)
    size = _shown_bytes(code.num_bytes + _size_of(settings, inputs))
    pushed = _push_file(remote, _folder_of(settings, phase), code, submission)
    return Step(
        "sync",
        _push(remote, _folder_of(settings, phase), phase, code, inputs, pushed),
        on=HERE,
        reason=f"{num} file{'s' * (num != 1)}, {size} → {remote.alias}",
        tools=(*remote.tools, pushed),
        repeats=True,
    )


def _push(
    remote: Remote,
    folder: str,
    phase: Phase,
    code: Code,
    inputs: tuple[str, ...],
    pushed: Tool,
) -> Command:
    """git's list without the products of runs, through rsync; the shim there makes the folder before, and
    removes what was pushed once and is gone here."""
    prepared = remote.here.ask_shim("prepare", pushed.name)
    listed = _git_list(folder, phase, code.gone) if code.is_in_git else _plain_list(folder, phase)
    rsync = f"rsync -lptRc0 --files-from=- {_by_ssh(remote)}"
    source = f"{folder}/" if ":" not in folder else f"./{folder}/"
    line = f"{prepared.text} && {listed} | {rsync} {quote(source)} {_far(remote, folder)}"
    if inputs:
        options = f"--progress --partial-dir=.rsync-partial {_by_ssh(remote)}"
        line += f" && rsync -lptRc {options} {sh(*inputs).text} {_far(remote)}"
    return Command(f"(set -o pipefail; {line})").within(remote.here.root)


def _push_file(remote: Remote, folder: str, code: Code, submission: Submission | None) -> Tool:
    """What is to be known of a push: whereto, for which run it is, and each file's checksum."""
    named = {"run": str(submission.paths.folder), "token": submission.token} if submission else {}
    files = dict(zip(code.files, code.sums, strict=True))
    where = {"machine": remote.alias, "ssh": remote.ssh_tool.name, "root": remote.root, "folder": folder}
    push = json.dumps({**where, **named, "files": files}, indent=0, sort_keys=True) + "\n"
    return remote.here.tool("push", push)


def _by_ssh(remote: Remote) -> str:
    """rsync's option that makes it use our configuration."""
    return f"-e {quote(f'ssh -F {remote.ssh_tool.name}')}"


def _far(remote: Remote, folder: str = "") -> str:
    """A folder below the root of the machine, as rsync names it; `-s` where a shell there would read it."""
    root = remote.root.removeprefix("~/") if remote.root != "~" else "."
    path = str(PurePosixPath(root, folder)) + "/"
    plain = quote(path) == path
    return f"{'' if plain else '-s '}{quote(f'{remote.alias}:{path}')}"


def _git_list(folder: str, phase: Phase, gone: tuple[str, ...]) -> str:
    """git's own list of the folder, from within it, but for what runs made and what was removed by hand."""
    left_out = [_pathspec(name) for name in (*_product_names(phase), *gone)]
    return sh("git", "-C", folder, "ls-files", "-zco", "--exclude-standard", *left_out).text


def _pathspec(name: str) -> str:
    """What git leaves out: `:!name`, spelled out where the name could mean more."""
    if re.fullmatch(r"[\w.][\w./*?-]*", name):
        return f":!{name}"
    return f":(exclude{'' if re.search('[*?]', name) else ',literal'}){name}"


def _plain_list(folder: str, phase: Phase) -> str:
    """All files of a folder outside git, but for what runs made."""
    left_out = [word for name in (".git", *_product_names(phase)) for word in ("-path", f"./{name}", "-o")]
    kinds = ("(", "-type", "f", "-o", "-type", "l", ")", "-print0")
    found = sh("find", ".", "(", *left_out, "-name", "__pycache__", ")", "-prune", "-o", *kinds)
    return f"({found.within(folder).text})"


def _product_names(phase: Phase) -> tuple[str, ...]:
    """Where runs put what they make, below the phase's folder."""
    return ("runs", "run.log", ".venv", *(artifact.rstrip("/") for artifact in phase.artifacts))


def _input_files(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The files behind `phase.inputs`, relative to the root.

    A path is meant from the phase's folder, else from the root.
    """
    root = settings.paths.root
    files: list[str] = []
    for name in phase.inputs:
        tried = [os.path.normpath(root / _folder_of(settings, phase) / name), os.path.normpath(root / name)]
        path = next((Path(t) for t in tried if Path(t).exists()), None)
        if path is None or not path.is_relative_to(root):
            raise UsageError(f"phase.inputs: {name} is neither below the phase's folder nor below {root}")
        found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        files += [str(p.relative_to(root)) for p in found]
    return tuple(dict.fromkeys(files))


def _size_of(settings: Settings, files: tuple[str, ...]) -> int:
    """Their bytes."""
    return sum((settings.paths.root / name).stat().st_size for name in files)


def _clone(remote: Remote, folder: str, phase: Phase, submission: Submission | None) -> Command:
    """The repository in the phase's folder on the machine, at the commit; what runs made there stays."""
    assert phase.source
    named = ("--run", submission.paths.folder, "--token", submission.token) if submission else ()
    made = sh(*_product_names(phase))
    return remote.run_shim("clone", folder, phase.source.git, phase.source.ref, *named, then=made)


def backup(settings: Settings) -> Asking[Plan]:
    """The phase's artifacts here, verified; nothing is deleted on either side."""
    yield from ()
    phase = needed_phase(settings)
    reason = None
    if settings.instance.is_local:
        reason = "jobs on this machine leave their artifacts in this very folder"
    elif not phase.artifacts:
        reason = f"{phase.name} declares no artifacts (phase.artifacts)"
    return Plan(
        action="backup",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=() if reason else (backup_step(settings, phase),),
        basis=(("machine", settings.alias),),
        reason=reason,
        details=(("artifacts", " ".join(phase.artifacts) or "none"),),
    )


def backup_step(settings: Settings, phase: Phase) -> Step:
    """Fetch, compare, put into place; again for what changed meanwhile."""
    remote = remote_of(settings)
    fetch = remote.call_shim("fetch", _folder_of(settings, phase), *_plain_words(phase.artifacts))
    here = settings.paths.research_log / phase.name
    reason = f"{' '.join(phase.artifacts)} → {settings.paths.shown(here)}/"
    if len(reason) > 85:
        reason = f"{' '.join(phase.artifacts)} → here"
    return Step("backup", fetch.within(remote.here.root), reason=reason, tools=remote.tools)


def _plain_words(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names as words that nobody takes for options."""
    return ("--", *names) if any(name.startswith("-") for name in names) else names


def _shown_bytes(num: int) -> str:
    """`61 kB`."""
    size = float(num)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{num} B"
        size /= 1000
    return f"{size:.3g} GB"

"""What is written to disk beside the steps: the folder of a run, the ledger, the page of a report."""

import fcntl
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from runner.errors import Refused, RunnerError, UsageError
from runner.machines.ledger import LEDGER, OUR_NAME, OWNER, entry_of, read_installation_id, read_ledger
from runner.plan.plan import Plan, PlanResult, WriteFile, run_document, to_json
from runner.plan.tools import Tool

if TYPE_CHECKING:
    from runner.report.report import Report


def claim_run(plan: Plan) -> None:
    """Make the run's folder with the plan in it. Refused when somebody was faster: a run starts once."""
    if plan.run_folder is None or not plan.starts_run:
        return
    folder = Path(plan.run_folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        _write_atomically(folder / "plan.json", to_json(run_document(plan)) + "\n")
    except FileExistsError as error:
        raise Refused(
            f"Run {plan.run} was started by somebody else since the plan was shown",
            "Show the plan again; it will have the next number.",
        ) from error
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()  # the number stays free, unless the plan was half written
        raise UsageError(
            f"{folder} cannot be written: {error.strerror}", "Nothing has run; no log could be kept."
        ) from error


def write_tools(tools: Iterable[Tool]) -> None:
    """The files of ours that a plan's lines call, where they are not there yet."""
    for tool in tools:
        try:
            if not (tool.path.is_file() and tool.path.read_text(errors="surrogateescape") == tool.text):
                tool.path.parent.mkdir(parents=True, exist_ok=True)
                _write_atomically(tool.path, tool.text)
        except OSError as error:
            raise UsageError(
                f"{tool.path} cannot be written: {error.strerror}", "Nothing has run."
            ) from error


def record_result(result: PlanResult) -> RunnerError | None:
    """result.json of the run; a full disk here is told, not raised: the job itself is over."""
    folder = result.plan.run_folder
    if folder is None or not _is_over(result, Path(folder)):
        return None
    document = result.document()
    document["digest"] = result.plan.started_by or document["digest"]
    try:
        _write_atomically(Path(folder) / "result.json", to_json(document) + "\n")
    except OSError as error:
        return RunnerError(f"result.json could not be written: {error.strerror}")
    return None


def _is_over(result: PlanResult, folder: Path) -> bool:
    """Whether this plan saw the end of its run, and nobody told it before.

    Of a run that another plan started only the exit code says so: whoever follows it may just have left.
    """
    if result.plan.starts_run:
        return not result.is_detached
    ended, told = folder / "exit_code", folder / "result.json"
    return ended.exists() and not (told.exists() and told.stat().st_mtime >= ended.stat().st_mtime)


def write_file(action: WriteFile) -> None:
    """What a step writes. Refused when what is there is not what was seen; a folder is made where none is."""
    path = Path(action.path)
    is_private = action.mode is not None and not action.mode & 0o077
    try:
        path.parent.mkdir(0o700 if is_private else 0o777, parents=True, exist_ok=True)
        with _replacing(path, action.mode) as new:
            new.write(action.content)
            _check_expected(path, action.expects)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; it stays as it is") from error


def _check_expected(path: Path, expects: str | None) -> None:
    """Refused when the file is not as it was seen."""
    found = sha256(path.read_bytes()).hexdigest() if path.exists() else None
    if found == expects:
        return
    how = "is gone" if found is None else "was written to" if expects else "was made by somebody else"
    raise Refused(f"{path} {how} since the plan was made; it stays as it is")


def _write_atomically(path: Path, text: str) -> None:
    """The whole file or none of it, also through a crash."""
    with _replacing(path) as new:
        new.write(text.encode())


@contextmanager
def _replacing(path: Path, mode: int | None = None) -> Iterator[IO[bytes]]:
    """A new file that takes the place of the old one when all went well."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        with open(
            new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600 if mode else 0o666)
        ) as file:
            if mode:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def run_that_spent(digest: str, phase_folder: Path) -> str | None:
    """The run of this phase whose plan had this digest."""
    for file in sorted(phase_folder.glob("runs/*/plan.json")):
        try:
            if json.loads(file.read_text()).get("digest") == digest:
                return file.parent.name
        except (OSError, ValueError, AttributeError):
            continue
    return None


def append(file: Path, entry: dict[str, Any]) -> None:
    """Add one entry. A file with unreadable lines is kept aside first and its entries carried over."""
    line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.with_suffix(".lock")):
            _mend(file)
            with file.open("ab") as out:
                out.write(line)
                out.flush()
                os.fsync(out.fileno())
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> UsageError:
    """What it means that nothing can be remembered."""
    return UsageError(
        f"{file} cannot be written: {error.strerror}",
        "Without it nobody would know what was rented, so nothing more is asked of the cloud.",
        "Another place: paths.state=DIR",
    )


def _mend(file: Path) -> None:
    """Give a file whose lines are not all entries a readable successor; the old one stays beside it."""
    if not file.exists():
        return
    data = file.read_bytes()
    lines = data.splitlines()
    good = [line for line in lines if entry_of(line)]
    if len(good) == len([line for line in lines if line.strip()]):
        if data and not data.endswith(b"\n"):  # a whole entry whose line break was lost
            with file.open("ab") as out:
                out.write(b"\n")
        return
    aside = next(a for n in range(1, 10_000) if not (a := file.with_name(f"{LEDGER}.corrupt-{n}")).exists())
    aside.write_bytes(data)
    new = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.new")
    new.write_bytes(b"".join(line + b"\n" for line in good))
    new.replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Alone with the file, for a moment; whoever holds the lock and dies lets go of it."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def only_launch(state: Path, name: str) -> Iterator[None]:
    """One launch at a time below this folder, and each name once; Refused otherwise."""
    lock = state / "launch.lock"
    try:
        state.mkdir(parents=True, exist_ok=True)
        opened = lock.open("a")
    except OSError as error:
        raise _unwritable(lock, error) from error
    with opened as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(
                "Another runner is launching a machine right now; nothing was rented by this one",
                "When it is done: python -m runner action=status",
            ) from error
        if read_ledger(state).by_name(name):
            raise Refused(
                f"{name} was launched by another runner since this plan was made",
                "Nothing was rented by this one. Show the plan again; it will have another name.",
            )
        _keep_installation_id(state, name)
        yield


def _keep_installation_id(state: Path, name: str) -> None:
    """Keep whose the machines of this folder are, since the first one; alone, under the lock of launches."""
    match, kept = OUR_NAME.fullmatch(name), read_installation_id(state)
    if match is None or match["owner"] == kept:
        return
    if kept is not None:
        raise Refused(
            f"{name} is not what a machine of this runner is called since another one was launched",
            "Nothing was rented. Show the plan again; it will have another name.",
        )
    try:
        _write_atomically(state / OWNER, match["owner"] + "\n")
    except OSError as error:
        raise _unwritable(state / OWNER, error) from error


def write_page(report: "Report") -> tuple[str, ...]:
    """The files that were written, the page first. UsageError without the library that draws."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            "The figures are above; the page needs matplotlib, which is not installed",
            f"uv pip install --python {sys.executable} 'matplotlib>=3.9'",
        )
    from runner.report.page import page
    from runner.report.pictures import LIGHT, pictures

    folder = report.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [_whole(folder / "report.html", page(report).encode())]
        for picture in pictures(report):
            written.append(_whole(folder / f"{picture.name}.png", picture.draw(LIGHT, False)))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    return tuple(str(path) for path in written)


def _whole(path: Path, content: bytes) -> Path:
    """The file, whole or as it was before."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    return new.replace(path)

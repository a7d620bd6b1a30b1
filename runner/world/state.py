"""What is written to disk beside the steps: the folder of a run, its plan, its result."""

import json
import os
from contextlib import suppress
from pathlib import Path

from runner.errors import Refused, RunnerError, UsageError
from runner.plan.plan import Plan
from runner.plan.result import PlanResult
from runner.view.json import run_document, to_json


def claim_run(plan: Plan) -> None:
    """Make the run's folder with the plan in it. Refused when somebody was faster: a run starts once."""
    if plan.run_folder is None or not plan.starts_run:
        return
    folder = Path(plan.run_folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        write_atomically(folder / "plan.json", to_json(run_document(plan)) + "\n")
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


def record_result(result: PlanResult) -> RunnerError | None:
    """result.json of the run; a full disk here is told, not raised: the job itself is over."""
    folder = result.plan.run_folder
    if folder is None or not is_over(result, Path(folder)):
        return None
    document = result.document()
    document["digest"] = result.plan.started_by or document["digest"]
    try:
        write_atomically(Path(folder) / "result.json", to_json(document) + "\n")
    except OSError as error:
        return RunnerError(f"result.json could not be written: {error.strerror}")
    return None


def is_over(result: PlanResult, folder: Path) -> bool:
    """Whether this plan saw the end of its run, and nobody told it before.

    Of a run that another plan started only the exit code says so: whoever follows it may just have left.
    """
    if result.plan.starts_run:
        return not result.is_detached
    ended, told = folder / "exit_code", folder / "result.json"
    return ended.exists() and not (told.exists() and told.stat().st_mtime >= ended.stat().st_mtime)


def write_atomically(path: Path, text: str) -> None:
    """The whole file or none of it, also through a crash."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def run_that_spent(digest: str, phase_folder: Path) -> str | None:
    """The run of this phase whose plan had this digest."""
    for file in sorted(phase_folder.glob("runs/*/plan.json")):
        try:
            if json.loads(file.read_text()).get("digest") == digest:
                return file.parent.name
        except (OSError, ValueError, AttributeError):
            continue
    return None

"""Writes the page of a report and its pictures into the run's folder."""

import sys
from importlib.util import find_spec
from pathlib import Path

from runner.errors import UsageError
from runner.verbs.report import Report
from runner.view.html import page
from runner.view.pictures import LIGHT, pictures


def write_page(report: Report) -> tuple[str, ...]:
    """The files that were written, the page first. UsageError without the library that draws."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            "The figures are above; the page needs matplotlib, which is not installed",
            f"uv pip install --python {sys.executable} 'matplotlib>=3.9'",
        )
    folder = report.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [whole(folder / "report.html", page(report).encode())]
        for picture in pictures(report):
            written.append(whole(folder / f"{picture.name}.png", picture.draw(LIGHT, False)))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    return tuple(str(path) for path in written)


def whole(path: Path, content: bytes) -> Path:
    """The file, whole or as it was before."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    return new.replace(path)

"""What the lines of a job's log are: a progress bar, an error, or a sign that the job went on."""

import re
from collections.abc import Sequence

_BAR = re.compile(
    r"\d+%\s*\||\|\s*\d+/\d+ \[|\d+(/\d+|it)? \[\d+:\d\d|\d(it|s)/(s|it)\b"
    r"|[━█▉▊▋▌▍▎▏]{2}|\[[=#]*>?[-. ]{5,}\]"
)
_ERROR = re.compile(r"(\[rank\d+\]: ?)?[\w.]*(Error|Exception)(: |:?$)")
_PROGRESS = re.compile(
    r"""(?i)[\W\d]*((info|debug)\W+)?(step|epoch|iter|iteration|batch|loss)\b["']?\W{0,3}\d"""
)
_LAST_BARS = 3  # a job that ends draws its bars once more
# What a launcher or an engine says of the end of its workers, whose own error stands above.
_SECOND_HAND = re.compile(
    r"ChildFailedError|CalledProcessError|ProcessRaisedException|DistBackendError|BrokenPipe|EOFError"
    r"|ConnectionReset|EngineDeadError|Engine core init"
)
_CHAINED = re.compile(r"(The above exception was the direct cause|During handling of the above exception)")


def is_bar(line: str) -> bool:
    """Whether this is a progress bar, as tqdm, rich and Keras draw them."""
    return _BAR.search(line) is not None


def last_words(lines: Sequence[str]) -> str:
    """The last line that says something and is no bar; the last bar where there is nothing else."""
    said = [line.strip()[:300] for line in lines if line.strip()]
    return next((line for line in reversed(said) if not is_bar(line)), said[-1] if said else "")


def fatal_line(lines: Sequence[str], pattern: str) -> str | None:
    """The last line with the pattern, unless the job went on after it, or another error ended it."""
    found = [number for number, line in enumerate(lines) if re.search(pattern, line)]
    if not found:
        return None
    rest = lines[found[-1] + 1 :]
    if len({line for line in rest if is_bar(line)}) > _LAST_BARS:
        return None
    chained = False
    for line in rest:
        chained = chained or _CHAINED.match(line) is not None
        if _is_progress(line) or (_is_error(line) and not chained):
            return None
    return lines[found[-1]].strip()[:300]


def _is_progress(line: str) -> bool:
    """Whether a job that works says this."""
    return _PROGRESS.match(line) is not None and not is_bar(line)


def _is_error(line: str) -> bool:
    """Whether this names an error that is its own cause."""
    return _ERROR.match(line) is not None and not _SECOND_HAND.search(line)

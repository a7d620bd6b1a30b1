"""A requirement as it is written: the package's name, whether it bounds the version, who says so."""

import re
from dataclasses import dataclass

NAME = re.compile(r"\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)")
BOUND = re.compile(r">=|==|~=|>|@|\.whl")


@dataclass(frozen=True)
class Requirement:
    """One requirement, and the file and line that say so (1-based; 0: `file` says it all)."""

    text: str
    file: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """The normalised name of the package."""
        return distribution(self.text)

    @property
    def where(self) -> str:
        """`train.py, line 2`."""
        return f"{self.file}, line {self.line}" if self.line else self.file


def distribution(requirement: str) -> str:
    """The normalised name of a requirement: `Torch[extra]>=2` → torch."""
    match = NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else requirement


def has_lower_bound(requirement: str) -> bool:
    """Whether the requirement keeps a resolver from going back to any old version."""
    return bool(BOUND.search(requirement.partition(";")[0]))

"""A diagnosis: what doctor says of one thing that is wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """One thing that is wrong; `remedy` is a command line."""

    symptom: str
    evidence: str
    cause: str
    remedy: str

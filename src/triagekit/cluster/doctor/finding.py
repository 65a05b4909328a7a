"""What one check found: fine, worth knowing, or a problem with its fix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the page.

    `note` is worth knowing but stops nothing (no Slurm on a laptop); `problem` stops something that was asked for, and
    its `fix` says what to do.
    """

    section: str
    name: str
    status: Status
    detail: str
    fix: str = ""


def has_problem(findings: Iterable[Finding]) -> bool:
    """Whether any finding is a problem: the exit code of the command."""
    return any(finding.status == "problem" for finding in findings)

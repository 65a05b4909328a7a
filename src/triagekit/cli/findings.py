"""Findings of checks as one table with its fixes, or as JSON; the exit code that goes with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triagekit.cluster.doctor.finding import Finding

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def print_findings(title: str, findings: Sequence[Finding], as_json: bool) -> int:
    """A line a finding, and the fix of each problem or note below it. Returns 0, or 1 when there is a problem."""
    from triagekit.cli.output import print_json
    from triagekit.cluster.doctor.finding import has_problem

    failed = has_problem(findings)
    if as_json:
        print_json({"ok": not failed, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        _print_table(title, findings)
    return 1 if failed else 0


def _print_table(title: str, findings: Sequence[Finding]) -> None:
    from triagekit.cli.output import console, print_table

    rows = []
    section = ""
    for finding in findings:
        rows.append(
            (finding.section if finding.section != section else "", finding.name, MARKS[finding.status], finding.detail)
        )
        section = finding.section
        if finding.fix:
            rows.append(("", "", "", f"→ {finding.fix}"))
    print_table(title, ["", "check", "", "finding"], rows)
    problems = sum(finding.status == "problem" for finding in findings)
    notes = sum(finding.status == "note" for finding in findings)
    words = [f"{count} {word}{'s' if count != 1 else ''}" for count, word in ((problems, "problem"), (notes, "note"))]
    console().print(f"{words[0]}, {words[1]}.", markup=False)

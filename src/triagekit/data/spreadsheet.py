"""CSV cells that a spreadsheet shows as text instead of running them as a formula."""

from __future__ import annotations

GUARD = "'"
_RUN = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # as OWASP lists them, wide forms included


def guarded(cell: str) -> str:
    """`cell`, with an apostrophe before what a spreadsheet would compute; `unguarded` gives back the cell exactly.

    Source: OWASP, CSV Injection. A cell that begins with an apostrophe gets another one, or it could not be told apart.
    """
    return GUARD + cell if cell.startswith((*_RUN, GUARD)) else cell


def unguarded(cell: str) -> str:
    """The cell that `guarded` was given."""
    return cell.removeprefix(GUARD)

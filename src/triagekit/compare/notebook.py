"""What the notebooks in `analysis/` need beside the comparison itself: finding runs, and showing tables and figures."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from triagekit.compare.markup import Markup, table
from triagekit.errors import TriageError
from triagekit.evaluation.wording import Table

VARIABLE = "TRIAGEKIT_RUNS"
_PLACES = ("runs/demo-*", "../runs/demo-*", "demo/runs/*", "../demo/runs/*")


def find_runs() -> list[Path]:
    """Run folders matching the pattern in TRIAGEKIT_RUNS, else those of the demo.

    Raises TriageError saying where was looked when there are none.
    """
    given = os.environ.get(VARIABLE)
    for pattern in [given] if given else _PLACES:
        # Path.glob takes no absolute pattern.
        found = sorted(Path(path) for path in glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207
        runs = [path for path in found if (path / "config.yaml").is_file()]
        if runs:
            return runs
    looked = given or ", ".join(_PLACES)
    raise TriageError(
        f"No runs at {looked}. Make some with 'triage demo', or set {VARIABLE} to a pattern of run folders."
    )


def page(content: str) -> Markup:
    """A piece of the report with the report's style sheet, kept to itself: it reaches nothing else on the page."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    own = f"@scope {{ {style.replace(':root', ':scope').replace('body {', ':scope {')} }}"
    return Markup(f"<div><style>{own}</style>{content}</div>")


def show_html(content: str) -> None:
    """Show a piece of the report in the notebook."""
    from IPython.display import HTML, display

    display(HTML(page(content)))  # type: ignore[no-untyped-call]


def show_figure(svg: str | None) -> None:
    """Show one of the report's figures; says so where there is nothing to draw."""
    show_html(f"<figure>{svg}</figure>" if svg else "<p>Nothing was recorded for this figure.</p>")


def show_table(rows: Table) -> None:
    """Show column heads and rows."""
    heads, cells = rows
    show_html(table(heads, cells))

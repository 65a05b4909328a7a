"""Tables, progress bars and JSON for the terminal. Everything rich is imported when it is first needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console


PIPED_WIDTH = 140
"""Columns of output that goes to a file or a pipe, where rich would assume 80 and fold the tables."""


def console() -> Console:
    """A console on stdout; plain text, and wide enough for every table, when it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def print_json(value: Any) -> None:
    """Indented JSON on stdout, for scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; columns whose cells are all numbers are right-aligned."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    table = Table(title=escape(title) or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(_is_figure(row[index]) for row in cells)
        table.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def _is_figure(text: str) -> bool:
    return not text or text[0].isdigit() or (text[0] in "-+±–" and text[1:2].isdigit())


class RichProgress:
    """A bar with rate and time left on stderr; silent when stderr is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task: Any = None
        self._unit = "rows"
        self._figures = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, description: str, total: int | None, unit: str = "rows") -> None:
        """Begin a bar; an earlier one of this object stays on screen."""
        self._unit = unit
        self._task = self._progress.add_task(description, total=total, rate="", figures="")

    def advance(self, count: int = 1, **figures: object) -> None:
        """Move on; figures are shown as `name value`."""
        self._progress.advance(self._task, count)
        speed = self._progress.tasks[self._progress.task_ids.index(self._task)].speed
        self._figures = "  ".join(f"{name} {_short(value)}" for name, value in figures.items()) or self._figures
        rate = f"{speed:,.1f} {self._unit}/s" if speed else ""
        self._progress.update(self._task, rate=rate, figures=self._figures)

    def finish(self) -> None:
        """Leave the bar standing as done."""
        self._progress.stop_task(self._task)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

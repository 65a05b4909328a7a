"""Small pieces of HTML. Everything that comes from data passes through `text`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from triagekit.compare.paired import signed
from triagekit.compare.statistics import Difference, Mean


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """`value` escaped for HTML, control characters shown as a replacement character; `–` for None."""
    if isinstance(value, Markup):
        return value
    shown = "–" if value is None else str(value)
    return Markup(html.escape("".join(one if one >= " " or one in "\n\t" else "\ufffd" for one in shown)))


def join(parts: Iterable[str]) -> Markup:
    """Pieces of HTML behind each other."""
    return Markup("\n".join(parts))


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[int] = (), caption: str = ""
) -> Markup:
    """A table; columns whose index is in `numeric` are right-aligned with figures of one width; first cells are heads."""
    right = set(numeric)

    def attributes(index: int) -> str:
        return ' class="figure"' if index in right else ""

    head = "".join(f'<th scope="col"{attributes(index)}>{text(name)}</th>' for index, name in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row"{attributes(index)}>{text(cell)}</th>'
            if index == 0
            else f"<td{attributes(index)}>{text(cell)}</td>"
            for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return Markup(f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def section(identity: str, title: str, *parts: str) -> Markup:
    """A section with a heading; parts that are empty are left out."""
    return join([f'<section id="{identity}"><h2>{text(title)}</h2>', *(part for part in parts if part), "</section>"])


def details(title: str, *parts: str, is_open: bool = False) -> Markup:
    """A part that can be folded away."""
    opened = " open" if is_open else ""
    return join([f"<details{opened}><summary>{text(title)}</summary>", *parts, "</details>"])


def paragraph(content: str, kind: str = "") -> Markup:
    """A paragraph of a class."""
    attribute = f' class="{kind}"' if kind else ""
    return Markup(f"<p{attribute}>{text(content)}</p>")


def figure(svg: str | None, caption: str) -> Markup:
    """An inline SVG with its caption; nothing where there is no figure."""
    if svg is None:
        return Markup("")
    return Markup(f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage without the sign."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def estimate(value: Mean | None) -> Markup:
    """A share in percent with its interval beneath it in small type."""
    if value is None:
        return Markup("–")
    return Markup(f'{percent(value.value)} <span class="interval">[{percent(value.low)}, {percent(value.high)}]</span>')


def difference(value: Difference) -> Markup:
    """A difference in percentage points with its interval."""
    return Markup(
        f'{signed(100 * value.value)} <span class="interval">[{signed(100 * value.low)}, {signed(100 * value.high)}]</span>'
    )


def p_value(value: float) -> str:
    """A p value as people write it."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float | None) -> str:
    """Bytes in MiB or GiB."""
    if count is None:
        return "–"
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def whole(value: float | None) -> str:
    """A count with thousands separators."""
    return "–" if value is None else f"{value:,.0f}"

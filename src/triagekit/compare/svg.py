"""A matplotlib figure as an SVG that lives inside a page: colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Figures are drawn in these marker colours; in the SVG each becomes a property of the page's style sheet.
INK = "#010203"
MUTED = "#040506"
GRID = "#070809"
SURFACE = "#0a0b0c"
SERIES = ("#f10001", "#f20002", "#f30003", "#f40004", "#f50005", "#f60006", "#f70007", "#f80008")
_PROPERTIES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.unicode_minus": True,
    "legend.frameon": False,
}


def inline_svg(figure: Figure, key: str, title: str) -> str:
    """The figure as `<svg role="img">` without a fixed size, `title` for screen readers, ids unique by `key`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style element inside an SVG would reach the whole page; the page's own sheet says the same for figures.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{key}-", text)
    # Fonts and the namespace of links come from the page.
    text = re.sub(r"font: (?:(bold) )?([\d.]+)px [^;\"]+", _font, text)
    text = text.replace("xlink:href", "href").replace('xmlns:xlink="http://www.w3.org/1999/xlink" ', "")
    for colour, value in _PROPERTIES.items():
        text = text.replace(colour, value)
    width, height = figure.get_size_inches() * 72
    opening = (
        f'<svg role="img" aria-label="{title}" viewBox="0 0 {width:g} {height:g}" style="max-width:{width * 1.35:g}px">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)


def _font(match: re.Match[str]) -> str:
    weight = "; font-weight: 600" if match.group(1) else ""
    return f"font-size: {match.group(2)}px{weight}"

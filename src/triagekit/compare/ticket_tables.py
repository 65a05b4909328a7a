"""Tables that show tickets: surest mistakes, and where two methods differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from triagekit.compare.markup import Markup, table, text
from triagekit.compare.methods import Method


def mistakes_table(found: Sequence[Mapping[str, Any]]) -> Markup:
    """Confident mistakes with their tickets."""
    rows = [
        [
            Markup(f'{text(item["id"])}<p class="ticket">{text(shorten(item["text"]))}</p>'),
            item["field"],
            item["gold"],
            item["predicted"],
            f"{100 * item['confidence']:.1f} %",
        ]
        for item in found
    ]
    return table(["ticket", "field", "should be", "was", "confidence"], rows, numeric=(4,))


def disagreement_table(found: Sequence[Mapping[str, Any]], first: Method, second: Method) -> Markup:
    """Tickets on which one method does much better."""
    rows = [
        [
            Markup(f'{text(item["id"])}<p class="ticket">{text(shorten(item["text"]))}</p>'),
            item["better"],
            *(
                Markup("<br>".join(text(f"{part['field']}: {part[key]}") for part in item["fields"]))
                for key in ("gold", first.name, second.name)
            ),
        ]
        for item in found
        if item["fields"]
    ]
    return table(["ticket", "better", "should be", first.name, second.name], rows)


def shorten(content: str, length: int = 320) -> str:
    """A ticket's beginning."""
    return content if len(content) <= length else content[: length - 1].rstrip() + "…"

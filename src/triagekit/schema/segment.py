"""A piece of a record as the model writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Segment:
    """Skeleton or value. `field` is set for value segments: the name of the field it belongs to."""

    kind: Literal["skeleton", "value"]
    text: str
    field: str | None = None

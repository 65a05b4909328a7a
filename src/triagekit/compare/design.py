"""What a planned comparison says of its runs: what the methods are called, what defines them, what was chosen for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Design:
    """The plan behind several runs.

    `names`: the name of a run's method, by its folder. `method_settings`: settings that define a method, besides
    `adapter.*`. `chosen_settings`: settings that every method had chosen for itself by the same procedure on the validation
    split, so that a difference in them is part of the method at its best.
    """

    names: Mapping[Path, str] = field(default_factory=dict)
    method_settings: frozenset[str] = frozenset()
    chosen_settings: frozenset[str] = frozenset()


UNPLANNED = Design()
"""Runs of which nothing is known but what stands in their folders."""

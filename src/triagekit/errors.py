"""Errors written for people: what was given, where, what was expected, the nearest valid name, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TriageError(Exception):
    """A failure that the user can act on. The command line prints its text without a traceback and exits with 2."""


@dataclass(frozen=True)
class Problem:
    """One mistake in something the user wrote.

    `where` names file, line and key as far as known; `message` says what was given and what was expected;
    `hint` says what to do, often with the nearest valid name.
    """

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} {self.hint}" if self.hint else text


class ProblemsError(TriageError):
    """Every mistake of one input at once, so that a person mends them in one go."""

    def __init__(self, title: str, problems: Sequence[Problem]) -> None:
        self.title = title
        self.problems = tuple(problems)
        super().__init__("\n".join([title, *(f"  - {problem}" for problem in self.problems)]))


def nearest(name: object, choices: Iterable[object]) -> str | None:
    """The choice most like `name` (case-insensitive), or None if none is like it."""
    by_folded = {str(choice).casefold(): str(choice) for choice in choices}
    matches = difflib.get_close_matches(str(name).casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: object, choices: Iterable[object]) -> str:
    """A hint sentence: the nearest choice, else the list of choices (at most 20 of them)."""
    options = [str(choice) for choice in choices]
    match = nearest(name, options)
    if match is not None:
        return f"Did you mean '{match}'?"
    shown = ", ".join(options[:20])
    return f"Valid: {shown}{', …' if len(options) > 20 else ''}." if options else ""

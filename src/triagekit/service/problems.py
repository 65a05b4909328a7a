"""What a caller is told when a request cannot be answered: what was given, where, and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_PROBLEMS = 20
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class BodyProblem:
    """One mistake. `where` is a JSON path, `$` the whole body. A ticket's text is never shown."""

    where: str
    given: str
    expected: str

    def to_json(self) -> dict[str, str]:
        """As it stands in the answer."""
        return {"where": self.where, "given": self.given, "expected": self.expected}


@dataclass(eq=False)
class Refusal(Exception):
    """A request that gets an error for an answer. `reason` is a fixed word for logs and metrics."""

    status: int
    reason: str
    message: str
    problems: Sequence[BodyProblem] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The answer's body; long lists of mistakes are cut, and say so."""
        error: dict[str, Any] = {"reason": self.reason, "message": self.message}
        if self.problems:
            error["problems"] = [problem.to_json() for problem in self.problems[:MOST_PROBLEMS]]
        if len(self.problems) > MOST_PROBLEMS:
            error["more_problems"] = len(self.problems) - MOST_PROBLEMS
        return {"error": error}


def shown(text: str) -> str:
    """A key or another short word of the caller's in quotes, cut where it is long."""
    return f"'{text}'" if len(text) <= _LONGEST_SHOWN else f"'{text[: _LONGEST_SHOWN - 1]}…'"


def kind_of(value: Any) -> str:
    """What a JSON value is, in words, without the content of texts and containers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        # Python refuses to write out integers of thousands of digits.
        return f"a number ({value})" if abs(value) < 1e15 else "a very large number"
    if isinstance(value, str):
        return f"text of {len(value):,} characters" if value else "an empty text"
    if isinstance(value, list):
        return f"an array of {len(value):,}"
    return f"an object with {_keys(value)}"


def _keys(value: Mapping[str, Any]) -> str:
    if not value:
        return "no keys"
    names = [shown(name) for name in list(value)[:5]]
    return f"the keys {', '.join(names)}{', …' if len(value) > 5 else ''}"

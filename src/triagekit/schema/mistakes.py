"""Gathers the mistakes of one schema definition, with the messages that several of its parts share."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from triagekit.errors import Problem, did_you_mean

Key = Sequence[str | int]
Where = Callable[[Key], str]


class Mistakes:
    """A growing list of problems; `where` turns a key path into file, line and key."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self.problems: list[Problem] = []

    def add(self, key: Key, message: str, hint: str = "") -> None:
        """One mistake at `key`."""
        self.problems.append(Problem(self.where(key), message, hint))

    def nearest(self, key: Key, message: str, given: object, choices: Iterable[object]) -> None:
        """One mistake at `key`, with the choice most like what was given."""
        self.add(key, message, did_you_mean(given, choices))

    def unknown_keys(self, key: Key, given: Mapping[Any, Any], known: Sequence[str]) -> None:
        """A mistake for each key that is not known."""
        for name in given:
            if name not in known:
                self.nearest((*key, str(name)), f"unknown key '{name}'.", name, known)

    def text(self, key: Key, value: Any, empty: bool = False) -> str:
        """`value` if it is usable text, else '' with a mistake noted."""
        if not isinstance(value, str):
            self.not_text(key, value)
            return ""
        text = value.strip()
        if not text and not empty:
            self.add(key, "the text is empty.", "Write something here or remove it.")
        return text

    def not_text(self, key: Key, value: Any) -> None:
        """The mistake of a value that YAML did not read as text."""
        if isinstance(value, bool):
            word = "true" if value else "false"
            message = f"expected text, found the boolean {word} (YAML reads yes, no, on, off, true and false so)."
            self.add(key, message, 'Put it in quotes, for example "yes".')
        elif isinstance(value, int | float):
            self.add(key, f"expected text, found the number {value}.", f'Put it in quotes: "{value}".')
        elif isinstance(value, datetime.date):
            self.add(key, f"expected text, found the date {value}.", f'Put it in quotes: "{value}".')
        elif value is None:
            message = "expected text, found nothing (YAML reads null, ~ and an empty place so)."
            self.add(key, message, 'Put it in quotes if the word is meant: "null".')
        else:
            kind = (
                "a list" if isinstance(value, list) else "a mapping" if isinstance(value, Mapping) else "something else"
            )
            self.add(key, f"expected text, found {kind}.")

    def flag(self, key: Key, value: Any) -> bool:
        """`value` if it is true or false, else False with a mistake noted."""
        if isinstance(value, bool):
            return value
        self.add(key, f"expected true or false, found {value!r}.")
        return False

    def count(self, key: Key, value: Any, highest: int) -> int:
        """`value` if it is a whole number from 1 to `highest`, else 1 with a mistake noted."""
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= highest:
            return value
        self.add(key, f"expected a whole number from 1 to {highest}, found {value!r}.")
        return 1

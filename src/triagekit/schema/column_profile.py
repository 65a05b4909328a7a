"""What one column of labelled data holds: gathered row by row in little memory, then judged as text, enum or tags."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from triagekit.schema.canonical import normalise_text
from triagekit.schema.field_definition import MAX_TEXT_LENGTH, MAX_VALUE_LENGTH
from triagekit.schema.fields import fold
from triagekit.schema.normalise import as_text, is_structure

Kind = Literal["text", "enum", "tags"]
ABSENT = -1
"""Code of a row that has no value in this column."""

MAX_DISTINCT = 20_000
"""Distinct values that are counted; a column with more is text whatever else it is."""
SCALES = (
    ("trivial", "minor", "major", "critical", "blocker"),
    (
        "very low",
        "low",
        "normal",
        "medium",
        "moderate",
        "high",
        "very high",
        "urgent",
        "severe",
        "critical",
        "emergency",
    ),
    ("negligible", "marginal", "significant", "critical", "catastrophic"),
)
"""Words that are known to stand for steps; a column that uses only words of one of these is ordered."""


@dataclass
class ColumnProfile:
    """Counts of one column; `codes` holds for each row the index of its value in `values`, or ABSENT."""

    column: str
    present: bool = False
    missing: int = 0
    rows: int = 0
    longest: int = 0
    words: int = 0
    line_breaks: int = 0
    overflowed: bool = False
    is_list: bool = False
    most_items: int = 0
    structures: int = 0
    values: list[str] = field(default_factory=list)
    codes: array[int] = field(default_factory=lambda: array("l"))
    spellings: Counter[str] = field(default_factory=Counter)
    _code_of: dict[str, int] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)

    def add(self, value: Any) -> None:
        """Take in the value of the next row."""
        self.rows += 1
        if isinstance(value, list | tuple | set | frozenset):
            self.is_list = True
            tags = [text for item in value if (text := self._clean(item))]
            self.most_items = max(self.most_items, len(tags))
            for tag in tags:
                self._count(tag)
            self.codes.append(ABSENT)
            return
        text = self._clean(value)
        if not text:
            self.missing += 1
            self.structures += as_text(value) is None and is_structure(value)
            self.codes.append(ABSENT)
            return
        self.codes.append(self._count(text))

    def _clean(self, value: Any) -> str:
        raw = as_text(value)
        if raw is None:
            return ""
        known = self._texts.get(raw)
        if known is None:
            known = normalise_text(raw, MAX_TEXT_LENGTH)
            if len(self._texts) < MAX_DISTINCT:
                self._texts[raw] = known
            self.line_breaks += "\n" in raw.strip()
        return known

    def _count(self, text: str) -> int:
        self.longest = max(self.longest, len(text))
        self.words += text.count(" ") + 1
        if self.overflowed:
            return ABSENT
        self.spellings[text] += 1
        key = fold(text)
        code = self._code_of.get(key)
        if code is None:
            if len(self.values) >= MAX_DISTINCT:
                self.overflowed = True
                return ABSENT
            code = self._code_of[key] = len(self.values)
            self.values.append(text)
        return code

    @property
    def distinct(self) -> int:
        """Number of distinct values, whatever their case and spacing."""
        return len(self.values)

    def kind(self, force_text: bool = False) -> Kind:
        """What this column looks like: long, many-lined or mostly unique values are text, lists are tags."""
        if force_text:
            return "text"
        if self.is_list:
            return "tags"
        if self.overflowed or self.longest > MAX_VALUE_LENGTH or self.line_breaks:
            return "text"
        filled = self.rows - self.missing
        mostly_unique = self.distinct > filled / 2
        wordy = self.words > 3 * filled
        return "text" if mostly_unique and (wordy or self.distinct > 20) else "enum"

    def value_counts(self) -> dict[str, int]:
        """Value → rows, in the order proposed for the schema; spellings that differ in case only are one value."""
        counts: dict[str, Counter[str]] = {}
        for text, count in self.spellings.items():
            counts.setdefault(fold(text), Counter())[text] += count
        totals = {max(group, key=lambda text: (group[text], text)): group.total() for group in counts.values()}
        scale = self.scale()
        if scale:
            return dict(sorted(totals.items(), key=lambda item: scale.index(fold(item[0]))))
        if all(text.isascii() and text.removeprefix("-").isdigit() for text in totals):
            return dict(sorted(totals.items(), key=lambda item: int(item[0])))
        return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))

    def merged_spellings(self) -> dict[str, list[str]]:
        """Proposed value → its other spellings in the data."""
        chosen = {fold(value): value for value in self.value_counts()}
        others: dict[str, list[str]] = {}
        for text in self.spellings:
            value = chosen[fold(text)]
            if text != value:
                others.setdefault(value, []).append(text)
        return others

    def scale(self) -> tuple[str, ...]:
        """The known scale of words that all values (at least two) belong to, else empty."""
        words = {fold(value) for value in self.values}
        if len(words) < 2:
            return ()
        return next((scale for scale in SCALES if words <= set(scale)), ())

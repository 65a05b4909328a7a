"""The kinds of field that a ticket record can have, with every look-up that validation needs made once."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property


def fold(text: str) -> str:
    """The spelling under which two labels count as the same: any case, any amount of whitespace, letters with marks
    composed or not (exports from macOS have them in two characters)."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _spellings(values: Iterable[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Folded spelling → declared value; a spelling that two values share is left out, because it says nothing."""
    found: dict[str, str | None] = {}
    for value in values:
        key = fold(value)
        found[key] = value if found.get(key, value) == value else None
    for alias, value in aliases.items():
        found.setdefault(fold(alias), value)
    return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class TextField:
    """Free text of 1 to `max_length` characters (Unicode code points)."""

    name: str
    max_length: int = 200
    nullable: bool = False
    description: str = ""


@dataclass(frozen=True)
class EnumField:
    """One of `values`. `ordered` says that their order is a scale; `aliases` maps other spellings to values."""

    name: str
    values: tuple[str, ...]
    ordered: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    nullable: bool = False
    description: str = ""

    @cached_property
    def value_set(self) -> frozenset[str]:
        """The values, for membership tests."""
        return frozenset(self.values)

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Folded value or alias → declared value."""
        return _spellings(self.values, self.aliases)


@dataclass(frozen=True)
class DependentEnumField:
    """One of the values that the value of field `parent` allows.

    A parent value may allow none (an empty tuple) if the field is nullable: it is then always null there.
    Where the parent itself is null, this field is null too.
    """

    name: str
    parent: str
    values_by_parent: Mapping[str, tuple[str, ...]] = field(hash=False)
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    nullable: bool = False
    description: str = ""

    @cached_property
    def values(self) -> tuple[str, ...]:
        """All values under any parent, in first-seen order."""
        return tuple(dict.fromkeys(value for values in self.values_by_parent.values() for value in values))

    @cached_property
    def value_set(self) -> frozenset[str]:
        """The values under any parent, for membership tests."""
        return frozenset(self.values)

    @cached_property
    def value_sets(self) -> dict[str, frozenset[str]]:
        """Parent value → its values, for membership tests."""
        return {parent: frozenset(values) for parent, values in self.values_by_parent.items()}

    @cached_property
    def parents_of(self) -> dict[str, tuple[str, ...]]:
        """Value → the parent values that allow it."""
        parents: dict[str, list[str]] = {}
        for parent, values in self.values_by_parent.items():
            for value in values:
                parents.setdefault(value, []).append(parent)
        return {value: tuple(names) for value, names in parents.items()}

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Folded value or alias → declared value, under any parent."""
        return _spellings(self.values, self.aliases)

    @cached_property
    def spellings_by_parent(self) -> dict[str, dict[str, str]]:
        """Parent value → folded value → declared value: two parents may spell a value in different cases."""
        return {parent: _spellings(values, {}) for parent, values in self.values_by_parent.items()}


@dataclass(frozen=True)
class TagsField:
    """Any of `values`, at most `max_items`: a JSON array in declared order, without repeats, possibly empty."""

    name: str
    values: tuple[str, ...]
    max_items: int
    description: str = ""

    @cached_property
    def positions(self) -> dict[str, int]:
        """Value → its place in the declared order."""
        return {value: position for position, value in enumerate(self.values)}

    @cached_property
    def value_set(self) -> frozenset[str]:
        """The values, for membership tests."""
        return frozenset(self.values)

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Folded value → declared value."""
        return _spellings(self.values, {})


Field = TextField | EnumField | DependentEnumField | TagsField
LabelField = EnumField | DependentEnumField | TagsField


def is_nullable(a_field: Field) -> bool:
    """Whether the field may be null. Tags never are: an empty array says that there are none."""
    return not isinstance(a_field, TagsField) and a_field.nullable

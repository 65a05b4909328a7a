"""The kinds of field that a record can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema


@dataclass(frozen=True)
class TextField:
    """Free text of at most `max_length` characters on one line; never empty."""

    name: str
    max_length: int = 200
    nullable: bool = False
    description: str = ""


@dataclass(frozen=True)
class EnumField:
    """One of `values`. `ordered`: their order is a scale. `aliases`: other spellings, each for one value."""

    name: str
    values: tuple[str, ...]
    ordered: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    nullable: bool = False
    description: str = ""


@dataclass(frozen=True)
class DependentEnumField:
    """One of the values that `parent`'s value allows."""

    name: str
    parent: str
    values_by_parent: Mapping[str, tuple[str, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    nullable: bool = False
    description: str = ""

    @cached_property
    def values(self) -> tuple[str, ...]:
        """All values of all parents, first-seen order."""
        return tuple(dict.fromkeys(value for values in self.values_by_parent.values() for value in values))


@dataclass(frozen=True)
class TagsField:
    """A set of up to `max_items` of `values`: an array in the order in which the schema declares them, may be empty."""

    name: str
    values: tuple[str, ...]
    max_items: int
    description: str = ""


def folded(text: str) -> str:
    """The form in which spellings are compared: lower case, single spaces."""
    return " ".join(text.casefold().split())


Field = TextField | EnumField | DependentEnumField | TagsField


def allowed_values(schema: Schema, field_name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Values that an enum or tags field may take, given the parent's value in `record`; () for text fields."""
    kind = schema.field(field_name)
    if isinstance(kind, TextField):
        return ()
    if isinstance(kind, DependentEnumField):
        return kind.values_by_parent.get(record.get(kind.parent), ())  # type: ignore[arg-type]
    return kind.values

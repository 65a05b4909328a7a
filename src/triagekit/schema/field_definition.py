"""Reads the definition of one field and notes every mistake in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from triagekit.errors import did_you_mean
from triagekit.schema.fields import DependentEnumField, EnumField, Field, TagsField, TextField, fold
from triagekit.schema.mistakes import Mistakes

MAX_VALUE_LENGTH = 100
"""Characters of one value of an enum: longer ones are prose, which belongs into a text field."""
MAX_TEXT_LENGTH = 4000
RESERVED_NAMES = ("id", "text", "verdict", "error")
"""Columns that stand beside the fields in the tables this package writes."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_COMMON = ("name", "kind", "optional", "description")
_KEYS: dict[str, tuple[str, ...]] = {
    "text": (*_COMMON, "max_length"),
    "enum": (*_COMMON, "values", "ordered", "aliases", "depends_on"),
    "tags": (*_COMMON, "values", "max_items"),
}

Place = tuple[str | int, ...]


def read_field(key: Place, data: Any, mistakes: Mistakes) -> Field | None:
    """The field that stands at `key`, as far as it can be read; None if its kind or name cannot be told."""
    if not isinstance(data, Mapping):
        mistakes.add(key, "expected a field: '- name: …' and 'kind: text|enum|tags'.")
        return None
    name = _field_name(key, data, mistakes)
    description = mistakes.text((*key, "description"), data.get("description") or "", empty=True)
    kind = data.get("kind")
    if "kind" not in data:
        mistakes.add(key, "the key 'kind' is missing.", "Valid: text, enum, tags.")
        return None
    if kind not in _KEYS:
        mistakes.add((*key, "kind"), f"unknown kind {kind!r}.", _kind_hint(kind))
        return None
    mistakes.unknown_keys(key, data, _KEYS[kind])
    optional = mistakes.flag((*key, "optional"), data.get("optional", False))
    if kind == "text":
        length = mistakes.count((*key, "max_length"), data.get("max_length", TextField.max_length), MAX_TEXT_LENGTH)
        return TextField(name, length, optional, description)
    if kind == "tags":
        if optional:
            mistakes.add(
                (*key, "optional"), "tags are never null: an empty list says that there are none.", "Remove it."
            )
        values = _values((*key, "values"), data.get("values"), mistakes)
        items = max(len(values), 1)
        return TagsField(
            name, values, mistakes.count((*key, "max_items"), data.get("max_items", items), items), description
        )
    if data.get("depends_on") is not None:
        return _dependent(key, data, name, optional, description, mistakes)
    if isinstance(data.get("values"), Mapping):
        hint = "Add 'depends_on: <field>', or write one list."
        mistakes.add((*key, "values"), "values per parent need the field they depend on.", hint)
        return None
    values = _values((*key, "values"), data.get("values"), mistakes)
    ordered = mistakes.flag((*key, "ordered"), data.get("ordered", False))
    return EnumField(name, values, ordered, _aliases(key, data, values, mistakes), optional, description)


def _kind_hint(kind: Any) -> str:
    meant = {"string": "text", "str": "text", "choice": "enum", "list": "tags", "multi": "tags"}
    return f"Did you mean '{meant[kind]}'?" if kind in meant else did_you_mean(kind, _KEYS)


def _field_name(key: Place, data: Mapping[str, Any], mistakes: Mistakes) -> str:
    if "name" not in data:
        mistakes.add(key, "the key 'name' is missing.", "Add 'name: …'; it becomes the key in the record.")
        return ""
    name = data["name"]
    place = (*key, "name")
    if not isinstance(name, str):
        mistakes.not_text(place, name)
        return ""
    if not _NAME.fullmatch(name):
        message = (
            f"'{name}' cannot be the name of a field: letters, digits and '_', not beginning with a digit, at most 64."
        )
        suggestion = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:64]
        mistakes.add(place, message, f"For example '{suggestion}'." if _NAME.fullmatch(suggestion) else "")
    elif name in RESERVED_NAMES or name.startswith("confidence_"):
        message = f"'{name}' is taken by a column that stands beside the fields in the tables written."
        mistakes.add(place, message, f"For example 'ticket_{name}'.")
    return name


def _dependent(
    key: Place, data: Mapping[str, Any], name: str, optional: bool, description: str, mistakes: Mistakes
) -> Field | None:
    parent = data["depends_on"]
    if not isinstance(parent, str):
        mistakes.not_text((*key, "depends_on"), parent)
        return None
    if mistakes.flag((*key, "ordered"), data.get("ordered", False)):
        message = "a field that depends on another has no one scale over its values."
        mistakes.add((*key, "ordered"), message, "Remove 'ordered'.")
    given = data.get("values")
    if not isinstance(given, Mapping) or not given:
        message = f"expected values for each value of '{parent}'."
        mistakes.add((*key, "values"), message, "For example 'values: {Hardware: [Laptop, Printer], …}'.")
        return None
    by_parent: dict[str, tuple[str, ...]] = {}
    for parent_value, values in given.items():
        place = (*key, "values", str(parent_value))
        if isinstance(parent_value, str):
            by_parent[parent_value] = () if values == [] and optional else _values(place, values, mistakes)
        else:
            mistakes.not_text(place, parent_value)
    every = tuple(dict.fromkeys(value for values in by_parent.values() for value in values))
    return DependentEnumField(name, parent, by_parent, _aliases(key, data, every, mistakes), optional, description)


def _values(key: Place, given: Any, mistakes: Mistakes) -> tuple[str, ...]:
    if not isinstance(given, list):
        found = "nothing" if given is None else f"{given!r}"
        mistakes.add(key, f"expected a list of values, found {found}.", "For example 'values: [Low, High]'.")
        return ()
    if not given:
        mistakes.add(key, "the list of values is empty.", "Add at least one value.")
    first: dict[str, int] = {}
    for index, value in enumerate(given):
        place = (*key, index)
        if not isinstance(value, str):
            mistakes.not_text(place, value)
            continue
        _check_value(place, value, mistakes)
        if value in first:
            message = f"'{value}' is here twice; first at {mistakes.where((*key, first[value]))}."
            mistakes.add(place, message, "Remove one.")
        first.setdefault(value, index)
    return tuple(first)


def _check_value(place: Place, value: str, mistakes: Mistakes) -> None:
    if not value.strip():
        mistakes.add(place, "the value is empty.", "For a field that may be absent write 'optional: true'.")
        return
    if value != value.strip():
        mistakes.add(place, f"'{value}' begins or ends with a space.", f"Write '{value.strip()}'.")
    if _CONTROL.search(value.strip()):
        mistakes.add(place, f"{value!r} has a line break, a tab or another control character in it.")
    if len(value) > MAX_VALUE_LENGTH:
        message = f"'{value[:40]}…' has {len(value)} characters; a value has at most {MAX_VALUE_LENGTH}."
        mistakes.add(place, message, "Shorten it, or make the field a text.")


def _aliases(key: Place, data: Mapping[str, Any], values: tuple[str, ...], mistakes: Mistakes) -> dict[str, str]:
    given = data.get("aliases")
    if given is None:
        return {}
    place = (*key, "aliases")
    if not isinstance(given, Mapping):
        mistakes.add(place, "expected 'other spelling: value' lines.")
        return {}
    folded = {fold(value): value for value in values}
    seen: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for alias, value in given.items():
        here = (*place, str(alias))
        if not isinstance(alias, str) or not isinstance(value, str):
            mistakes.not_text(here, value if isinstance(alias, str) else alias)
            continue
        if not alias.strip():
            mistakes.add(here, "the alias is empty.")
        if value not in values:
            mistakes.nearest(here, f"'{value}' is not a value of this field.", value, values)
        if fold(alias) in folded:
            message = f"'{alias}' is itself a value ('{folded[fold(alias)]}'; case and spaces do not matter)."
            mistakes.add(here, message, "Remove the alias.")
        elif fold(alias) in seen:
            mistakes.add(here, f"'{alias}' is the same alias as '{seen[fold(alias)]}' (case and spaces do not matter).")
        seen.setdefault(fold(alias), alias)
        aliases[alias] = value
    return aliases

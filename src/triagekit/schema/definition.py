"""Reads the definition of a schema (what its YAML file holds) and finds every mistake in it at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from triagekit.errors import ProblemsError
from triagekit.schema.field_definition import read_field
from triagekit.schema.fields import DependentEnumField, EnumField, Field
from triagekit.schema.mistakes import Mistakes, Where
from triagekit.schema.schema import COMPACT_INSTRUCTIONS

KEYS = ("name", "title", "description", "format", "instructions", "fields")
FORMATS = ("json", "compact")
MAX_INSTRUCTION_LENGTH = 500
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def dotted(key: Sequence[str | int]) -> str:
    """`fields.0.name`: where a mistake stands when there is no file."""
    return ".".join(str(part) for part in key)


def read_definition(data: Any, where: Where = dotted, title: str = "The schema") -> dict[str, Any]:
    """The arguments of `Schema(…)` from the content of a YAML file.

    `where` turns a key path into the place that a message names. Raises ProblemsError with every mistake.
    """
    mistakes = Mistakes(where)
    arguments = _read(data, mistakes)
    if mistakes.problems:
        count = len(mistakes.problems)
        raise ProblemsError(f"{title} has {count} mistake{'s' if count != 1 else ''}:", mistakes.problems)
    return arguments


def check_definition(data: Mapping[str, Any]) -> None:
    """Raises ProblemsError with every mistake, as read_definition does."""
    read_definition(data, title=f"Schema '{data.get('name')}'")


def _read(data: Any, mistakes: Mistakes) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        mistakes.add((), "expected a schema: 'name: …' and 'fields: …'.", "See `triage schema show it_tickets`.")
        return {}
    mistakes.unknown_keys((), data, KEYS)
    arguments: dict[str, Any] = {"name": _name(data, mistakes)}
    for key in ("title", "description"):
        if data.get(key) is not None:
            arguments[key] = mistakes.text((key,), data[key], empty=True)
    if data.get("format") is not None:
        arguments["format"] = _format(data["format"], mistakes)
    if data.get("instructions") is not None:
        arguments["instructions"] = _instructions(data["instructions"], mistakes)
    elif arguments.get("format") == "compact":
        arguments["instructions"] = COMPACT_INSTRUCTIONS
    arguments["fields"] = _fields(data.get("fields"), mistakes)
    return arguments


def _name(data: Mapping[str, Any], mistakes: Mistakes) -> str:
    if "name" not in data:
        mistakes.add((), "the key 'name' is missing.", "Add a line such as 'name: it_tickets'.")
        return ""
    name = mistakes.text(("name",), data["name"])
    if name and not _SCHEMA_NAME.fullmatch(name):
        mistakes.add(("name",), f"'{name}' is not a name: letters, digits, '_', '-' and '.', at most 64.")
    return name


def _format(given: Any, mistakes: Mistakes) -> str:
    if given not in FORMATS:
        mistakes.nearest(("format",), f"unknown format {given!r}.", str(given), FORMATS)
        return FORMATS[0]
    return str(given)


def _instructions(given: Any, mistakes: Mistakes) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        mistakes.add(("instructions",), "expected a list of at least one short instruction.", "Or leave the key out.")
        return ()
    texts = tuple(mistakes.text(("instructions", index), item) for index, item in enumerate(given))
    for index, text in enumerate(texts):
        if len(text) > MAX_INSTRUCTION_LENGTH:
            message = f"the instruction has {len(text)} characters; at most {MAX_INSTRUCTION_LENGTH} are meant."
            mistakes.add(("instructions", index), message)
        if text and text in texts[:index]:
            mistakes.add(("instructions", index), f"'{text}' stands here twice.", "Remove one.")
    return texts


def _fields(given: Any, mistakes: Mistakes) -> tuple[Field, ...]:
    if not isinstance(given, list) or not given:
        problem = "the key 'fields' is missing." if given is None else "expected a list of at least one field."
        mistakes.add(("fields",), problem, "Each field begins with '- name: …' and 'kind: text|enum|tags'.")
        return ()
    fields: list[Field] = []
    first_place: dict[str, int] = {}
    readable: dict[str, Field] = {}
    parents: dict[str, str] = {}
    for index, item in enumerate(given):
        a_field = read_field(("fields", index), item, mistakes)
        name = item.get("name") if isinstance(item, Mapping) else None
        if isinstance(name, str):
            if name in first_place:
                place = mistakes.where(("fields", first_place[name], "name"))
                mistakes.add(("fields", index, "name"), f"'{name}' is already the name of a field ({place}).")
            else:
                first_place[name] = index
                if isinstance(item.get("depends_on"), str):
                    parents[name] = item["depends_on"]
                if a_field is not None:
                    readable[name] = a_field
        if a_field is not None:
            fields.append(a_field)
    for child in parents:
        _check_parent(child, parents, first_place, readable, mistakes)
    ordered: dict[str, Field] = {}
    for a_field in fields:
        ordered[a_field.name] = _in_parents_order(a_field, ordered)
    return tuple(ordered.values())


def _check_parent(
    child: str, parents: dict[str, str], places: dict[str, int], readable: dict[str, Field], mistakes: Mistakes
) -> None:
    parent = parents[child]
    key = ("fields", places[child], "depends_on")
    if parent not in places:
        others = [name for name in places if name != child]
        mistakes.nearest(key, f"there is no field '{parent}' to depend on.", parent, others)
        return
    circle = _circle(child, parents)
    if circle:
        # Told once, at the member of the circle that stands first in the file.
        if min(circle, key=places.__getitem__) == child:
            way = " → ".join([*circle, circle[0]])
            mistakes.add(key, f"fields depend on each other in a circle: {way}.", "Remove one 'depends_on'.")
        return
    if places[parent] > places[child]:
        message = f"'{child}' stands before '{parent}', on which it depends."
        mistakes.add(key, message, f"Move '{child}' below '{parent}'.")
    parent_field, child_field = readable.get(parent), readable.get(child)
    if parent_field is None:
        return
    if not isinstance(parent_field, EnumField | DependentEnumField):
        mistakes.add(key, f"'{parent}' is not an enum, so nothing can depend on it.", "Depend on an enum field.")
    elif isinstance(child_field, DependentEnumField):
        _check_parent_values(places[child], child_field, parent_field, mistakes)


def _check_parent_values(
    index: int, child: DependentEnumField, parent: EnumField | DependentEnumField, mistakes: Mistakes
) -> None:
    key = ("fields", index, "values")
    for value in child.values_by_parent:
        if value not in parent.value_set:
            message = f"'{value}' is not a value of '{parent.name}'."
            mistakes.nearest((*key, value), message, value, parent.values)
    for value in parent.values:
        if value not in child.values_by_parent:
            message = f"no values are given for {parent.name} '{value}'."
            mistakes.add(key, message, f"Add a line '{value}: [ … ]'.")
    if parent.nullable and not child.nullable:
        message = f"'{parent.name}' is optional, and where it is null '{child.name}' must be null too."
        mistakes.add(("fields", index), message, "Add 'optional: true' here.")


def _circle(child: str, parents: dict[str, str]) -> list[str]:
    """The members of the circle that `child` is in, beginning with it; empty if it is in none."""
    way = [child]
    while (parent := parents.get(way[-1])) is not None:
        if parent == child:
            return way
        if parent in way:
            return []
        way.append(parent)
    return []


def _in_parents_order(a_field: Field, fields: Mapping[str, Field]) -> Field:
    """A dependent field with its values sorted as its parent's values are, so that equal schemas look equal."""
    parent = fields.get(a_field.parent) if isinstance(a_field, DependentEnumField) else None
    if not isinstance(a_field, DependentEnumField) or not isinstance(parent, EnumField | DependentEnumField):
        return a_field
    ordered = {value: a_field.values_by_parent[value] for value in parent.values if value in a_field.values_by_parent}
    return DependentEnumField(
        a_field.name, a_field.parent, ordered, a_field.aliases, a_field.nullable, a_field.description
    )

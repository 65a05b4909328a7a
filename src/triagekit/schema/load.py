"""Reads a schema YAML, and refuses a mistaken one with every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.files.resources import find_config
from triagekit.files.yaml_file import YamlDocument, load_yaml
from triagekit.schema.fields import DependentEnumField, EnumField, Field, TagsField, TextField, folded
from triagekit.schema.schema import DEFAULT_INSTRUCTIONS, Schema

SCHEMA_KEYS = ("name", "title", "description", "instructions", "fields")
FIELD_KEYS = {
    "text": ("name", "kind", "description", "max_length", "optional"),
    "enum": ("name", "kind", "description", "values", "ordered", "aliases", "depends_on", "optional"),
    "tags": ("name", "kind", "description", "values", "max_items"),
}
LONGEST_VALUE = 100
LONGEST_TEXT = 4000


def load_schema(name_or_path: str | Path) -> Schema:
    """A schema by shipped name (`it_tickets`) or path. Raises TriageError for none, ProblemsError for mistakes."""
    return schema_from_document(load_yaml(find_config("schema", str(name_or_path))))


def schema_from_data(data: Any) -> Schema:
    """A schema from its JSON form. Raises ProblemsError."""
    return schema_from_document(YamlDocument(None, data))


def schema_from_document(document: YamlDocument) -> Schema:
    """A schema from a YAML document. Raises ProblemsError with file and line of every mistake."""
    reader = _Reader(document)
    schema = reader.schema()
    if reader.problems or schema is None:
        name = str(document.path) if document.path else "The schema"
        raise ProblemsError(f"{name} has {len(reader.problems)} mistake(s):", reader.problems)
    return schema


class _Reader:
    def __init__(self, document: YamlDocument) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.fields: dict[str, Field] = {}
        self.names: list[str] = []

    def problem(self, key: tuple[str | int, ...], message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.document.where(key), message, hint))

    def schema(self) -> Schema | None:
        data = self.document.data
        if not isinstance(data, Mapping):
            self.problem((), "a schema is 'key: value' lines.", f"Keys: {', '.join(SCHEMA_KEYS)}.")
            return None
        self.known_keys((), data, SCHEMA_KEYS)
        name = self.text(("name",), data.get("name"), needed=True)
        instructions = self.instructions(data.get("instructions"))
        entries = data.get("fields")
        if not isinstance(entries, list) or not entries:
            self.problem(("fields",), "a schema needs a list of at least one field.", "Add 'fields:'.")
            return None
        self.names = [str(entry.get("name")) for entry in entries if isinstance(entry, Mapping)]
        parents = {
            str(entry.get("name")): str(entry["depends_on"])
            for entry in entries
            if isinstance(entry, Mapping) and entry.get("depends_on") is not None
        }
        for number, entry in enumerate(entries):
            self.field(number, entry, parents)
        title = self.text(("title",), data.get("title", name))
        description = self.text(("description",), data.get("description", ""))
        return Schema(name, title, description, tuple(self.fields.values()), instructions)

    def instructions(self, given: Any) -> tuple[str, ...]:
        if given is None:
            return DEFAULT_INSTRUCTIONS
        if not isinstance(given, list) or not given:
            self.problem(("instructions",), "instructions are a list of at least one sentence.")
            return DEFAULT_INSTRUCTIONS
        return tuple(self.text(("instructions", n), item, needed=True) for n, item in enumerate(given))

    def field(self, number: int, entry: Any, parents: Mapping[str, str]) -> None:
        key: tuple[str | int, ...] = ("fields", number)
        if not isinstance(entry, Mapping):
            self.problem(key, "a field is 'key: value' lines with at least name and kind.")
            return
        name = self.text((*key, "name"), entry.get("name"), needed=True)
        kind = entry.get("kind")
        if kind not in FIELD_KEYS:
            self.problem((*key, "kind"), f"'{kind}' is not a kind of field.", did_you_mean(kind, FIELD_KEYS))
            return
        self.known_keys(key, entry, FIELD_KEYS[kind])
        if name in self.fields:
            self.problem((*key, "name"), f"field '{name}' stands here twice.")
            return
        description = self.text((*key, "description"), entry.get("description", ""))
        nullable = self.flag((*key, "optional"), entry.get("optional", False))
        if kind == "text":
            limit = self.count((*key, "max_length"), entry.get("max_length", 200), LONGEST_TEXT)
            self.fields[name] = TextField(name, limit, nullable, description)
        elif kind == "tags":
            values = self.values((*key, "values"), entry.get("values"))
            limit = self.count((*key, "max_items"), entry.get("max_items", max(1, len(values))), max(1, len(values)))
            self.fields[name] = TagsField(name, values, limit, description)
        elif entry.get("depends_on") is not None:
            self.dependent(key, name, entry, nullable, description, parents)
        else:
            if isinstance(entry.get("values"), Mapping):
                self.problem((*key, "values"), "values per parent need 'depends_on: <field>'.", "Add it, or give a list.")
                return
            values = self.values((*key, "values"), entry.get("values"))
            ordered = self.flag((*key, "ordered"), entry.get("ordered", False))
            aliases = self.aliases((*key, "aliases"), entry.get("aliases"), values)
            self.fields[name] = EnumField(name, values, ordered, aliases, nullable, description)

    def dependent(
        self,
        key: tuple[str | int, ...],
        name: str,
        entry: Mapping[str, Any],
        nullable: bool,
        description: str,
        parents: Mapping[str, str],
    ) -> None:
        parent_name = str(entry["depends_on"])
        parent = self.fields.get(parent_name)
        where = (*key, "depends_on")
        if parent is None or isinstance(parent, TextField | TagsField):
            if parent_name == name or _is_cycle(name, parents):
                self.problem(where, f"'{name}' depends on itself in a circle.")
            elif parent is not None:
                self.problem(where, f"'{parent_name}' is not an enum; only an enum can be depended on.")
            elif parent_name in self.names:
                self.problem(where, f"'{parent_name}' must stand before '{name}'.", f"Move '{name}' below it.")
            else:
                others = [other for other in self.names if other != name]
                self.problem(where, f"there is no field '{parent_name}'.", did_you_mean(parent_name, others))
            return
        given = entry.get("values")
        if not isinstance(given, Mapping):
            self.problem((*key, "values"), f"give a list of values for each value of '{parent_name}'.")
            return
        pairs: dict[str, tuple[str, ...]] = {}
        for parent_value, values in given.items():
            place = (*key, "values", str(parent_value))
            if parent_value not in parent.values:
                message = f"'{parent_value}' is not a value of '{parent_name}'."
                self.problem(place, message, did_you_mean(parent_value, parent.values))
            # An optional field may have nothing to choose from under some parent: it is null there.
            pairs[str(parent_value)] = () if nullable and values == [] else self.values(place, values)
        missing = [value for value in parent.values if value not in pairs]
        if missing:
            shown = ", ".join(f"'{value}'" for value in missing)
            self.problem((*key, "values"), f"no values for {parent_name} {shown}.", "Add a list for each.")
        field = DependentEnumField(name, parent_name, pairs, {}, nullable, description)
        aliases = self.aliases((*key, "aliases"), entry.get("aliases"), field.values)
        self.fields[name] = DependentEnumField(name, parent_name, pairs, aliases, nullable, description)

    def values(self, key: tuple[str | int, ...], given: Any) -> tuple[str, ...]:
        if not isinstance(given, list) or not given:
            self.problem(key, "an enum needs a list of at least one value.")
            return ()
        seen: dict[str, str] = {}
        for number, value in enumerate(given):
            place = (*key, number)
            text = self.text(place, value, needed=True)
            if not text:
                continue
            if len(text) > LONGEST_VALUE:
                self.problem(place, f"'{text[:30]}…' has {len(text)} characters; at most {LONGEST_VALUE} are allowed.")
            if text != text.strip() or not text.isprintable():
                self.problem(place, f"{text!r} has spaces around it or control characters.")
            if folded(text) in seen:
                same = seen[folded(text)]
                self.problem(place, f"'{text}' stands here twice (as '{same}').", "Spellings may not differ by case only.")
            seen[folded(text)] = text
        return tuple(seen.values())

    def aliases(self, key: tuple[str | int, ...], given: Any, values: tuple[str, ...]) -> dict[str, str]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.problem(key, "aliases are 'other spelling: value' lines.")
            return {}
        folded_values = {folded(value) for value in values}
        result = {}
        for alias, value in given.items():
            place = (*key, str(alias))
            if value not in values:
                self.problem(place, f"'{value}' is not a value of this field.", did_you_mean(value, values))
            elif folded(str(alias)) in folded_values:
                self.problem(place, f"'{alias}' is itself a value of this field.", "Remove the alias.")
            else:
                result[str(alias)] = str(value)
        return result

    def known_keys(self, key: tuple[str | int, ...], data: Mapping[str, Any], valid: tuple[str, ...]) -> None:
        for name in data:
            if name not in valid:
                self.problem((*key, str(name)), f"unknown key '{name}'.", did_you_mean(name, valid))

    def text(self, key: tuple[str | int, ...], value: Any, needed: bool = False) -> str:
        if isinstance(value, bool | int | float):
            self.problem(key, f"{value!r} is read as a {type(value).__name__}, not as text.", "Put it in quotes.")
            return str(value)
        if value is not None and not isinstance(value, str):
            self.problem(key, f"expected text, found a {type(value).__name__}.")
            return ""
        if needed and not (value or "").strip():
            self.problem(key, f"'{key[-1]}' is needed and must not be empty.")
        return value or ""

    def flag(self, key: tuple[str | int, ...], value: Any) -> bool:
        if not isinstance(value, bool):
            self.problem(key, f"expected true or false, found {value!r}.")
        return bool(value)

    def count(self, key: tuple[str | int, ...], value: Any, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self.problem(key, f"expected a whole number from 1 to {most}, found {value!r}.")
            return 1
        return value


def _is_cycle(name: str, parents: Mapping[str, str]) -> bool:
    seen = {name}
    while name in parents:
        name = parents[name]
        if name in seen:
            return True
        seen.add(name)
    return False

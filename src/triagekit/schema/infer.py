"""Drafts a schema from labelled data: kinds of field, values with their counts, and which depend on which."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triagekit.errors import Problem, ProblemsError, TriageError, did_you_mean
from triagekit.schema.column_profile import ColumnProfile, Kind
from triagekit.schema.dependence import pair_counts, propose_parents
from triagekit.schema.field_definition import RESERVED_NAMES
from triagekit.schema.fields import DependentEnumField, EnumField, Field, TagsField, TextField, fold
from triagekit.schema.schema import Schema
from triagekit.schema.yaml_text import schema_yaml

MAX_VALUES = 100
MAX_DRAFTED_LENGTH = 1000
"""Characters of a drafted text field; longer targets cost more to train and to write than they are worth."""

MAX_COLUMNS_NAMED = 10_000
"""Columns remembered for messages; JSON rows can each bring keys of their own."""


@dataclass(frozen=True)
class ColumnSummary:
    """One column as it was read: `longest` is the most characters of one value."""

    column: str
    field: str
    kind: Kind
    parent: str | None
    rows: int
    missing: int
    distinct: int
    longest: int


@dataclass(frozen=True)
class InferredSchema:
    """A drafted schema, its YAML text with counts as comments, and the counts.

    `counts` is field → value → rows (empty for text); `notes` says what a person should look at.
    """

    schema: Schema
    yaml: str
    counts: dict[str, dict[str, int]]
    columns: tuple[ColumnSummary, ...]
    notes: tuple[str, ...]


def infer_schema(
    rows: Iterable[Mapping[str, Any]],
    fields: Sequence[str],
    name: str,
    parents: Mapping[str, str] | None = None,
    text_fields: Collection[str] = (),
    max_values: int = MAX_VALUES,
) -> InferredSchema:
    """A schema for the columns `fields` of `rows`, which are read once.

    Mostly unique or long values make a text field, lists make tags, everything else an enum; numbers become text;
    spellings that differ in case or spacing are one value. A column whose values are (nearly) decided by another's
    depends on it; `parents` (child column → parent column) says so by hand. Columns in `text_fields` become text.

    Raises ProblemsError with everything that stands in the way: absent or empty columns, more than `max_values` values.
    """
    given = dict(parents or {})
    profiles = {column: ColumnProfile(column) for column in fields}
    seen = _read(rows, profiles)
    problems = [*_column_problems(profiles, seen, given, text_fields)]
    kinds = {column: profile.kind(column in text_fields) for column, profile in profiles.items()}
    for column, profile in profiles.items():
        if kinds[column] != "text" and profile.distinct > max_values:
            message = (
                f"{profile.distinct:,} different values in {profile.rows:,} rows; at most {max_values} are drafted."
            )
            hint = f"Allow more with --max-values {profile.distinct}, or make it free text with --text {column}."
            problems.append(Problem(f"column '{column}'", message, hint))
    for child, parent in given.items():
        for column in (child, parent):
            if column in kinds and kinds[column] != "enum":
                message = f"it looks like {kinds[column]}, and only enums can depend on each other."
                problems.append(Problem(f"parent '{child}={parent}'", f"'{column}': {message}"))
    if problems:
        raise ProblemsError(f"No schema can be drafted from {len(fields)} columns:", problems)
    enums = [profile for column, profile in profiles.items() if kinds[column] == "enum"]
    found = propose_parents(enums, given)
    draft = _Draft(profiles, kinds, found, {column: field_name(column) for column in fields})
    return draft.finish(name, given)


def field_name(column: str) -> str:
    """A column's name as the name of a field: 'issue/request' becomes 'issue_request'."""
    name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_")[:64] or "field"
    name = f"_{name}" if name[0].isdigit() else name
    return f"ticket_{name}" if name in RESERVED_NAMES or name.startswith("confidence_") else name


def _read(rows: Iterable[Mapping[str, Any]], profiles: Mapping[str, ColumnProfile]) -> dict[str, None]:
    seen: dict[str, None] = {}
    for row in rows:
        if len(seen) < MAX_COLUMNS_NAMED and not row.keys() <= seen.keys():
            seen.update(dict.fromkeys(row))
        for column, profile in profiles.items():
            profile.present = profile.present or column in row
            profile.add(row.get(column))
    return seen


def _column_problems(
    profiles: Mapping[str, ColumnProfile], seen: Mapping[str, None], parents: Mapping[str, str], text: Collection[str]
) -> list[Problem]:
    if not profiles:
        return [Problem("fields", "no column is named.", did_you_mean("", seen))]
    problems = []
    names: dict[str, str] = {}
    for column, profile in profiles.items():
        where = f"column '{column}'"
        if not profile.present:
            problems.append(Problem(where, "the data has no such column.", did_you_mean(column, seen)))
        elif profile.missing == profile.rows:
            problems.append(Problem(where, f"it is empty in all {profile.rows:,} rows.", "Leave it out."))
        elif profile.structures:
            problems.append(Problem(where, f"it holds objects in {profile.structures:,} rows.", "Name an inner value."))
        if (other := names.setdefault(field_name(column), column)) != column:
            problems.append(Problem(where, f"would be called '{field_name(column)}', and so would '{other}'."))
    for child, parent in parents.items():
        for column in {child, parent} - profiles.keys():
            hint = did_you_mean(column, profiles)
            problems.append(Problem(f"parent '{child}={parent}'", f"'{column}' is not among the fields.", hint))
        if child == parent:
            problems.append(Problem(f"parent '{child}={parent}'", "a field cannot depend on itself."))
    problems += [
        Problem(f"text '{column}'", "it is not among the fields.", did_you_mean(column, profiles))
        for column in text
        if column not in profiles
    ]
    return problems


class _Draft:
    """The columns of one draft, turned into fields in an order in which every parent stands before its children."""

    def __init__(
        self,
        profiles: Mapping[str, ColumnProfile],
        kinds: Mapping[str, Kind],
        parents: Mapping[str, str],
        names: Mapping[str, str],
    ) -> None:
        self.profiles, self.kinds, self.parents, self.names = profiles, kinds, parents, names
        self.counts = {
            column: {} if kinds[column] == "text" else profile.value_counts() for column, profile in profiles.items()
        }
        self.pairs: dict[str, dict[str, dict[str, int]]] = {child: self._pairs(child) for child in parents}
        self.notes: list[str] = []
        self.comments: dict[tuple[str, ...], str] = {}

    def finish(self, name: str, given: Mapping[str, str]) -> InferredSchema:
        """The schema with its YAML text and notes."""
        order = self._order()
        schema = Schema(name, fields=tuple(self._field(column) for column in order))
        for column in order:
            self._comment(column, given)
        rows = next(iter(self.profiles.values())).rows
        head = [
            f"Drafted from {rows:,} labelled rows; the number behind a value is how many of them have it.",
            *self.notes,
        ]
        names = self.names
        summaries = tuple(self._summary(column) for column in order)
        counts = {names[column]: self.counts[column] for column in order}
        return InferredSchema(schema, schema_yaml(schema, self.comments, head), counts, summaries, tuple(self.notes))

    def _order(self) -> list[str]:
        order: list[str] = []

        def place(column: str, way: tuple[str, ...]) -> None:
            if column in way:
                raise TriageError(f"Columns depend on each other in a circle: {' → '.join([*way, column])}.")
            if column in order:
                return
            if column in self.parents:
                place(self.parents[column], (*way, column))
            order.append(column)

        for column in self.profiles:
            place(column, ())
        if order != list(self.profiles):
            self.notes.append(f"Fields were put in the order {', '.join(order)}: a parent stands before its children.")
        return order

    def _field(self, column: str) -> Field:
        profile, name, kind = self.profiles[column], self.names[column], self.kinds[column]
        nullable = self._nullable(column)
        if kind == "text":
            length = min(max(50, -(-profile.longest // 50) * 50), MAX_DRAFTED_LENGTH)
            return TextField(name, length, nullable)
        values = tuple(self.counts[column])
        if kind == "tags":
            return TagsField(name, values, max(1, min(profile.most_items, len(values))))
        if column in self.parents:
            by_parent = {value: tuple(children) for value, children in self.pairs[column].items()}
            return DependentEnumField(name, self.names[self.parents[column]], by_parent, nullable=nullable)
        return EnumField(name, values, ordered=bool(profile.scale()), nullable=nullable)

    def _nullable(self, column: str) -> bool:
        if self.profiles[column].missing > 0:
            return True
        if column not in self.parents:
            return False
        return self._nullable(self.parents[column]) or not all(self.pairs[column].values())

    def _pairs(self, child: str) -> dict[str, dict[str, int]]:
        """Parent value → child value → rows, both in the proposed order."""
        parent = self.profiles[self.parents[child]]
        found = pair_counts(parent, self.profiles[child])
        child_values = {fold(value): value for value in self.counts[child]}
        parent_values = {fold(value): value for value in self.counts[parent.column]}
        by_parent: dict[str, dict[str, int]] = {value: {} for value in self.counts[parent.column]}
        for (left, right), count in found.items():
            value = child_values[fold(self.profiles[child].values[right])]
            by_parent[parent_values[fold(parent.values[left])]][value] = count
        place = {value: position for position, value in enumerate(self.counts[child])}
        return {
            left: dict(sorted(values.items(), key=lambda item: place[item[0]])) for left, values in by_parent.items()
        }

    def _comment(self, column: str, given: Mapping[str, str]) -> None:
        profile, name = self.profiles[column], self.names[column]
        lines = [f"column '{column}'"] if name != column else []
        if name != column:
            self.notes.append(f"Column '{column}' is called {name} here; rename it in the data mapping.")
        if profile.missing:
            lines.append(f"absent in {profile.missing:,} of {profile.rows:,} rows")
        if self.kinds[column] == "text":
            lines.append(f"longest {profile.longest:,} characters")
            if profile.longest > MAX_DRAFTED_LENGTH:
                self.notes.append(f"{name}: texts longer than {MAX_DRAFTED_LENGTH:,} characters will be cut.")
        if column in self.parents:
            lines += self._comment_parent(column, given)
        elif self.kinds[column] != "text":
            self.comments |= {(name, value): f"{count:,}" for value, count in self.counts[column].items()}
            if len(self.counts[column]) == 1:
                self.notes.append(f"{name}: the same value in every row, so there is nothing to learn.")
        if self.kinds[column] == "enum":
            lines += [
                f"the data also writes '{value}' as {_quoted(others)}"
                for value, others in profile.merged_spellings().items()
            ]
        self.comments[(name,)] = "\n".join(lines)

    def _comment_parent(self, column: str, given: Mapping[str, str]) -> list[str]:
        name, parent = self.names[column], self.parents[column]
        for value, children in self.pairs[column].items():
            self.comments |= {(name, value, child): f"{count:,}" for child, count in children.items()}
        if column not in given:
            self.notes.append(f"{name} depends on {self.names[parent]}: it decides which values occur.")
        codes, parent_codes = self.profiles[column].codes, self.profiles[parent].codes
        orphans = sum(code >= 0 > parent_code for code, parent_code in zip(codes, parent_codes, strict=True))
        if orphans:
            said = f"{orphans:,} rows have {name} but no {self.names[parent]}; they will not be valid."
            self.notes.append(said)
            return [said]
        return []

    def _summary(self, column: str) -> ColumnSummary:
        profile = self.profiles[column]
        parent = self.parents.get(column)
        return ColumnSummary(
            column,
            self.names[column],
            self.kinds[column],
            self.names[parent] if parent else None,
            profile.rows,
            profile.missing,
            profile.distinct,
            profile.longest,
        )


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(f"'{text}'" for text in texts[:5]) + (", …" if len(texts) > 5 else "")

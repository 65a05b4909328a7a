"""From the columns of a source to ticket text, record, id and slices: a YAML mapping, applied row by row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator

from triagekit.data.cleaning import as_text, clean_text
from triagekit.data.pieces import RawRow, Reject
from triagekit.data.prior_formats import PriorFormat, flatten, recognise
from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.settings import Settings

PLACEHOLDER = re.compile(r"\{([^{}\n]+)\}")
MAX_TEXT = 100_000


class TagRule(Settings):
    """Adds `tag` to a tags field where a column fulfils every condition given."""

    tag: str
    column: str
    equals: str | None = Field(default=None, description="the cell as text, compared without case")
    contains: str | None = Field(default=None, description="regular expression searched in the cell, without case")
    at_least: float | None = None
    at_most: float | None = None

    @field_validator("equals", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return None if value is None else as_text(value)

    @field_validator("contains")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return value

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the row has the tag."""
        cell = as_text(values.get(self.column))
        if self.equals is not None and cell.casefold() != self.equals.casefold():
            return False
        if self.contains is not None and re.search(self.contains, cell, re.IGNORECASE) is None:
            return False
        if self.at_least is None and self.at_most is None:
            return True
        try:
            number = float(cell)
        except ValueError:
            return False
        return (self.at_least is None or number >= self.at_least) and (self.at_most is None or number <= self.at_most)


class DataMapping(Settings):
    """Which columns hold what. Left out, columns are expected to be called `id`, `text` and as the schema's fields."""

    format: Literal["auto", "columns", "instruction", "messages", "label_text"] = Field(
        default="auto", description="auto recognises the formats of earlier projects where no text column is named"
    )
    rename: dict[str, str] = Field(default={}, description="old column name: new one; done first")
    id: str | None = Field(default=None, description="id column; without one, ids are file and line")
    text: str | None = Field(default=None, description="a column, or a template such as '{subject}\\n{description}'")
    labels: dict[str, str | list[str]] = Field(
        default={}, description="schema field: column, template, or columns of which the first that is not empty counts"
    )
    values: dict[str, dict[str, str | None]] = Field(default={}, description="schema field: {value in data: value}")
    fallback: dict[str, str] = Field(default={}, description="schema field: value for labels outside the schema")
    constants: dict[str, str | list[str]] = Field(default={}, description="schema field: the same value for every row")
    tags: dict[str, list[TagRule]] = Field(default={}, description="tags field: rules that add its tags")
    slices: dict[str, str] = Field(default={}, description="slice name: column")
    mend_mojibake: bool = Field(default=True, description="undo wrongly decoded text (reported, never silent)")
    max_text_characters: int = Field(default=MAX_TEXT, ge=1, description="longer texts are rejected")

    @field_validator("values", "constants", mode="before")
    @classmethod
    def _keys_as_text(cls, value: Any) -> Any:
        # YAML reads `4: Access` and `true: …` as a number and a boolean; cells are compared as text.
        return _stringed(value)

    def is_for_columns(self) -> bool:
        """Whether the mapping itself names where things stand, so that nothing is to be recognised."""
        return self.format == "columns" or (self.format == "auto" and (self.text is not None or bool(self.labels)))

    def columns(self) -> list[tuple[str, str]]:
        """Every (setting, column) that the mapping names."""
        named = [("id", self.id)] if self.id else []
        named += [("text", column) for column in columns_of(self.text)] if self.text else []
        for name, source in self.labels.items():
            for part in [source] if isinstance(source, str) else source:
                named += [(f"labels.{name}", column) for column in columns_of(part)]
        named += [(f"tags.{name}", rule.column) for name, rules in self.tags.items() for rule in rules]
        named += [(f"slices.{name}", column) for name, column in self.slices.items()]
        return [(where, column) for where, column in named if column is not None]


@dataclass(frozen=True)
class MappedRow:
    """What the mapping took from one row. `labels` holds raw label values by schema field."""

    id: str | None
    text: str
    labels: dict[str, Any]
    slices: dict[str, str]
    values: dict[str, Any]
    repairs: tuple[str, ...] = field(default=())


class RowMapper:
    """Applies a mapping to rows. `fields` are the schema's field names; without any, only id and text are taken."""

    def __init__(self, mapping: DataMapping, fields: Iterable[str] = (), label_field: str | None = None) -> None:
        self.mapping = mapping
        self.fields = tuple(fields)
        self._label_field = label_field
        self._text = mapping.text or "text"
        self._by_plain_name = {plain_name(name): name for name in self.fields}

    def flat(self, row: RawRow) -> tuple[dict[str, Any], PriorFormat | None]:
        """The row's values as flat columns, renamed. Raises ValueError where a known format is broken."""
        values: dict[str, Any] = row.values
        kind: PriorFormat | None = None
        if self.mapping.format in ("instruction", "messages", "label_text"):
            kind = self.mapping.format
        elif not self.mapping.is_for_columns():
            kind = recognise(values)
        if kind is not None:
            try:
                values = flatten(values, kind, self._label_field, labelled=bool(self.fields))
            except KeyError as error:
                raise ValueError(f"the row has no {error}") from None
        if self.mapping.rename:
            values = {self.mapping.rename.get(name, name): value for name, value in values.items()}
        return values, kind

    def apply(self, row: RawRow) -> MappedRow | Reject:
        """The row as id, text, labels and slices; a Reject for empty or too long text or a broken known format."""
        try:
            values, _ = self.flat(row)
        except ValueError as error:
            return Reject(row.file, row.line, "broken record format", as_text(row.values), str(error))
        identity = as_text(values.get(self.mapping.id or "id")).strip() or None
        raw_text = _filled(self._text, values)
        if len(raw_text) > self.mapping.max_text_characters:
            detail = f"{len(raw_text):,} characters; the limit is {self.mapping.max_text_characters:,}"
            return Reject(row.file, row.line, "text too long", raw_text, detail, identity)
        text, repairs = clean_text(raw_text, self.mapping.mend_mojibake)
        if not text:
            return Reject(row.file, row.line, "empty text", as_text(row.values), "", identity)
        labels = {name: self._label(name, values) for name in self.fields}
        cells = {name: as_text(values.get(column)).strip() for name, column in self.mapping.slices.items()}
        slices = {name: cell for name, cell in cells.items() if cell}
        if not self.mapping.slices and isinstance(values.get("language"), str) and "language" not in self.fields:
            slices = {"language": values["language"]}
        return MappedRow(identity, text, labels, slices, values, (*row.repairs, *repairs))

    def _label(self, name: str, values: dict[str, Any]) -> Any:
        mapping = self.mapping
        if name in mapping.constants:
            return mapping.constants[name]
        if name in mapping.tags:
            return [rule.tag for rule in mapping.tags[name] if rule.holds(values)]
        value = self._cell(name, values)
        if isinstance(value, list):
            items = [_translated(as_text(item), mapping.values.get(name)) for item in value]
            return [item for item in items if item is not None]
        text = clean_text(as_text(value), mapping.mend_mojibake)[0]
        return _translated(text, mapping.values.get(name))

    def _cell(self, name: str, values: dict[str, Any]) -> Any:
        source = self.mapping.labels.get(name)
        if source is None:
            if name in values:
                return values[name]
            # "Issue/Request" and "issue request" are the field issue_request.
            return next((value for key, value in values.items() if plain_name(key) == plain_name(name)), None)
        for part in [source] if isinstance(source, str) else source:
            value = values.get(part) if part in values else (_filled(part, values) if "{" in part else None)
            if as_text(value).strip():
                return value
        return None


def check_columns(mapper: RowMapper, columns: Iterable[str], optional: Iterable[str], where: str) -> None:
    """Raise ProblemsError for every column that the mapping names, or the schema needs, and the source lacks."""
    present = list(columns)
    mapping = mapper.mapping
    problems = [
        Problem(f"{where} {setting}", f"there is no column '{column}'.", did_you_mean(column, present))
        for setting, column in mapping.columns()
        if column not in present
    ]
    if mapping.text is None and "text" not in present:
        hint = f"Name the text column: mapping.text=COLUMN. {did_you_mean('text', present)}"
        problems.append(Problem(f"{where} text", "there is no column 'text'.", hint))
    plain = {plain_name(column) for column in present}
    given = {*mapping.labels, *mapping.constants, *mapping.tags}
    skipped = {*optional, *given}
    for name in mapper.fields:
        if name not in skipped and plain_name(name) not in plain:
            hint = f"Say where it stands: mapping.labels.{name}=COLUMN. {did_you_mean(name, present)}"
            problems.append(Problem(f"{where} labels.{name}", f"no column for the schema's field '{name}'.", hint))
    for setting, named in (("labels", mapping.labels), ("values", mapping.values), ("fallback", mapping.fallback)):
        problems += _unknown_fields(mapper, setting, named, where)
    problems += _unknown_fields(mapper, "constants", mapping.constants, where)
    problems += _unknown_fields(mapper, "tags", mapping.tags, where)
    if problems:
        raise ProblemsError("The mapping does not fit the source:", problems)


def _unknown_fields(mapper: RowMapper, setting: str, named: Iterable[str], where: str) -> list[Problem]:
    if not mapper.fields:
        return []
    return [
        Problem(f"{where} {setting}.{name}", "the schema has no such field.", did_you_mean(name, mapper.fields))
        for name in named
        if name not in mapper.fields
    ]


def columns_of(source: str) -> list[str]:
    """Columns that a column name or template names."""
    return PLACEHOLDER.findall(source) if "{" in source else [source]


def plain_name(name: str) -> str:
    """A name without case and punctuation, for telling that "Issue/Request" is `issue_request`."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _filled(source: str, values: Mapping[str, Any]) -> str:
    """A column's text, or a template filled; lines of a template whose columns are all empty are left out."""
    if "{" not in source:
        return as_text(values.get(source))
    lines = []
    for line in source.split("\n"):
        names = PLACEHOLDER.findall(line)
        if names and not any(as_text(values.get(name)).strip() for name in names):
            continue
        lines.append(PLACEHOLDER.sub(lambda match: as_text(values.get(match.group(1))), line))
    return "\n".join(lines)


def _translated(text: str, translation: Mapping[str, str | None] | None) -> str | None:
    if translation:
        if text in translation:
            return translation[text]
        folded = text.casefold()
        for key, value in translation.items():
            if key.casefold() == folded:
                return value
    return text or None


def _stringed(value: Any) -> Any:
    if isinstance(value, dict):
        return {as_text(key): _stringed(inner) for key, inner in value.items()}
    return value if value is None or isinstance(value, str | list) else as_text(value)

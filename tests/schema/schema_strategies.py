"""Random schemas and random records of them, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from triagekit.schema import (
    DependentEnumField,
    EnumField,
    Schema,
    TagsField,
    TextField,
    allowed_values,
    normalise_text,
)

# Surrogates cannot be written as UTF-8; everything else may stand in a value as long as it is not blank at the ends.
characters = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="\ufeff")
values = st.text(characters, min_size=1, max_size=8).map(str.strip).filter(bool)
value_lists = st.lists(values, min_size=1, max_size=5, unique=True)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """One to five fields of every kind, chains of dependence included."""
    fields = []
    for index in range(draw(st.integers(1, 5))):
        name = f"field_{index}"
        enums = [field for field in fields if isinstance(field, EnumField | DependentEnumField)]
        kind = draw(st.sampled_from(["text", "enum", "tags", *(["dependent"] * 3 if enums else [])]))
        nullable = draw(st.booleans())
        if kind == "text":
            fields.append(TextField(name, draw(st.integers(1, 30)), nullable))
        elif kind == "enum":
            fields.append(EnumField(name, tuple(draw(value_lists)), draw(st.booleans()), nullable=nullable))
        elif kind == "tags":
            tags = tuple(draw(value_lists))
            fields.append(TagsField(name, tags, draw(st.integers(1, len(tags)))))
        else:
            parent = draw(st.sampled_from(enums))
            nullable = nullable or parent.nullable
            lists = st.one_of(value_lists, st.just([])) if nullable else value_lists
            by_parent = {value: tuple(draw(lists)) for value in parent.values}
            if not any(by_parent.values()):
                by_parent[parent.values[0]] = ("x",)
            fields.append(DependentEnumField(name, parent.name, by_parent, nullable=nullable))
    return Schema("random", "Random", "", fields=tuple(fields))


def texts(max_length: int) -> st.SearchStrategy[str]:
    """Text as it looks in a record."""
    anything = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
    return anything.map(lambda text: normalise_text(text, max_length)).filter(bool)


@st.composite
def records(draw: st.DrawFn, schema: Schema) -> dict:
    """A valid record of `schema`."""
    record = {}
    for field in schema.fields:
        if isinstance(field, TextField):
            record[field.name] = None if field.nullable and draw(st.booleans()) else draw(texts(field.max_length))
        elif isinstance(field, TagsField):
            chosen = draw(st.lists(st.sampled_from(field.values), max_size=field.max_items, unique=True))
            record[field.name] = sorted(chosen, key=field.values.index)
        else:
            choices = [*allowed_values(schema, field.name, record), *([None] if field.nullable else [])]
            record[field.name] = draw(st.sampled_from(choices))
    return record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn, schema: Schema, record: dict) -> dict:
    """The record with one to three changes that mostly make it invalid."""
    every = [value for field in schema.label_fields for value in field.values] + [None, "", [], "a" * 31, 1, True]
    result = dict(record)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(schema.field_names))
        change = draw(st.sampled_from(["drop", "other", "any", "extra", "list"]))
        if change == "drop":
            result.pop(name, None)
        elif change == "other":
            result[name] = draw(st.sampled_from(every))
        elif change == "any":
            result[name] = draw(json_values)
        elif change == "extra":
            result[draw(st.text(max_size=6))] = draw(json_values)
        else:
            result[name] = draw(st.lists(st.sampled_from(every), max_size=3))
    return result

"""The one exact rendering of a record, as a whole and in the segments that training and decoding share.

A segment is either skeleton (the same for every record that took the same choices so far: keys, quotes, commas) or
value (what was chosen). Training tokenises each segment alone; the decoder writes skeletons without asking the model.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from triagekit.errors import TriageError
from triagekit.schema.compact import compact_segments
from triagekit.schema.fields import DependentEnumField, TagsField, TextField
from triagekit.schema.schema import Schema
from triagekit.schema.segment import Segment

_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ufeff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def normalise_text(text: str, max_length: int) -> str:
    """How a text field's value looks in a record.

    Characters are composed (Unicode's normal form C): tokenizers of Qwen's kind do so, and what they were given
    otherwise would not come back as it was. Runs of whitespace and control characters become one space, ends are
    stripped, the rest is cut at `max_length` characters (code points). Halves of UTF-16 pairs are joined, and replaced
    by U+FFFD if they stand alone, because they could not be written as UTF-8. Idempotent.
    """
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = unicodedata.normalize("NFC", text)
    return _BLANK.sub(" ", text).strip()[:max_length].rstrip()


def escape(text: str) -> str:
    """The content of a JSON string, without its quotes; everything outside ASCII stays as it is."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def record_segments(schema: Schema, record: Mapping[str, Any]) -> list[Segment]:
    """The segments of a record, in the schema's format; in JSON their joined texts are its canonical JSON.

    Skeleton and value segments follow each other as the record is read; two skeletons never touch.
    - Text and enum: skeleton ends with the opening quote, value is the escaped content, the next skeleton begins with
      the closing quote.
    - Nullable: skeleton ends with `"field":`, then a value `null` or a value `"`; after `"` as above.
    - Tags: skeleton ends with `"field":`, then value `[]`, or value `["`, the first tag, and for each further one a
      value `","` and the tag, then value `"]`.

    The compact format is described in `schema.compact`. Raises TriageError if the record is not valid under the schema.
    """
    _check_record(schema, record)
    return _json_segments(schema, record) if schema.format == "json" else compact_segments(schema, record)


def _check_record(schema: Schema, record: Mapping[str, Any]) -> None:
    from triagekit.schema.validate import validate_record

    problems = validate_record(schema, record)
    if problems:
        said = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        raise TriageError(f"This record is not valid under schema '{schema.name}': {said}")


def _json_segments(schema: Schema, record: Mapping[str, Any]) -> list[Segment]:
    segments: list[Segment] = []
    skeleton = "{"
    for position, a_field in enumerate(schema.fields):
        name, value = a_field.name, record[a_field.name]
        skeleton += f'{"," if position else ""}"{name}":'
        if isinstance(a_field, TagsField):
            segments.append(Segment("skeleton", skeleton))
            segments.extend(Segment("value", text, name) for text in _tag_texts(value))
            skeleton = ""
            continue
        if a_field.nullable:
            segments.append(Segment("skeleton", skeleton))
            segments.append(Segment("value", "null" if value is None else '"', name))
            skeleton = ""
        else:
            segments.append(Segment("skeleton", skeleton + '"'))
        if value is not None:
            segments.append(Segment("value", escape(value), name))
            skeleton = '"'
    segments.append(Segment("skeleton", skeleton + "}"))
    return segments


def _tag_texts(tags: list[str]) -> list[str]:
    if not tags:
        return ["[]"]
    texts = ['["', escape(tags[0])]
    for tag in tags[1:]:
        texts += ['","', escape(tag)]
    return [*texts, '"]']


def canonical_json(schema: Schema, record: Mapping[str, Any]) -> str:
    """The record as JSON: keys in the schema's order, no whitespace, nothing outside ASCII escaped.

    Raises TriageError if the record is not valid under the schema.
    """
    _check_record(schema, record)
    return "".join(segment.text for segment in _json_segments(schema, record))


def allowed_values(schema: Schema, field_name: str, record_so_far: Mapping[str, Any]) -> tuple[str, ...]:
    """The values that a label field may take next to the values of the fields before it.

    Empty for a text field, and for a dependent field whose parent is null, unknown, absent, or allows only null.
    """
    a_field = schema.field(field_name)
    if isinstance(a_field, TextField):
        return ()
    if isinstance(a_field, DependentEnumField):
        parent = record_so_far.get(a_field.parent)
        return a_field.values_by_parent.get(parent, ()) if isinstance(parent, str) else ()
    return a_field.values

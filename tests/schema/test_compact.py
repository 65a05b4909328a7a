"""The compact format: values alone, from which the same records come back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triagekit.errors import ProblemsError
from triagekit.schema import (
    EnumField,
    Schema,
    TagsField,
    TextField,
    canonical_json,
    normalise_text,
    parse_record,
    record_segments,
    schema_prompt,
    schema_yaml,
)
from triagekit.schema.compact import shortest_beginnings
from triagekit.schema.load import load_schema
from triagekit.schema.schema import COMPACT_INSTRUCTIONS, DEFAULT_INSTRUCTIONS
from triagekit.schema.subset import select_fields

SCHEMA = Schema(
    name="desk",
    fields=(
        TextField("summary", max_length=40),
        EnumField("priority", ("Low", "High", "Highest", 'say "hi"'), nullable=True),
        TagsField("tags", ("new", "new user", "VIP"), max_items=2),
        TextField("note", max_length=20, nullable=True),
    ),
)
COMPACT = SCHEMA.in_format("compact")


def written(record: dict) -> str:
    return "".join(segment.text for segment in record_segments(COMPACT, record))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"summary": 'a "b" \\', "priority": "High", "tags": ["new", "VIP"], "note": "x"},
            'a "b" \\\nHigh\nnew\tVIP\t\n"x\n',
        ),
        ({"summary": "a", "priority": None, "tags": [], "note": None}, "a\n\t\n\n\t\n"),
    ],
)
def test_what_is_written(record, expected):
    assert written(record) == expected
    assert canonical_json(COMPACT, record) == canonical_json(SCHEMA, record)


text = st.text(max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    summary=text.map(lambda t: normalise_text(t, 40)).filter(bool),
    priority=st.sampled_from(["Low", "High", "Highest", 'say "hi"', None]),
    tags=st.sets(st.sampled_from(["new", "new user", "VIP"]), max_size=2),
    note=text.map(lambda t: normalise_text(t, 20) or None),
)
def test_every_record_comes_back(summary, priority, tags, note):
    ordered = [tag for tag in ("new", "new user", "VIP") if tag in tags]
    record = {"summary": summary, "priority": priority, "tags": ordered, "note": note}
    parsed = parse_record(COMPACT, written(record))
    assert (parsed.record, parsed.repairs, parsed.problems) == (record, (), ())


def test_values_written_short_are_read_and_doubtful_ones_told():
    parsed = parse_record(COMPACT, "a\nLo\n\n\t\nsomething behind")
    assert parsed.record == {"summary": "a", "priority": "Low", "tags": [], "note": None}
    assert parsed.repairs == ("removed lines behind the record",)
    doubtful = parse_record(COMPACT, "a\nHi\n\n\t\n")
    assert doubtful.verdict != "auto" and [problem.field for problem in doubtful.problems] == ["priority"]


def test_too_few_lines_are_no_record():
    parsed = parse_record(COMPACT, "a\nLow\n")
    assert (parsed.record, parsed.verdict) == (None, "error")
    assert "2 lines" in parsed.problems[0].message and "4 values" in parsed.problems[0].message


def test_json_is_still_read():
    record = {"summary": "a", "priority": None, "tags": [], "note": None}
    assert parse_record(COMPACT, canonical_json(SCHEMA, record)).record == record


def test_the_shortest_beginnings_tell_values_apart():
    def beginnings(value):
        return (value[:length] for length in range(1, len(value)))

    values = ["Hardware", "Hardness", "Network", "Net", "Access"]
    short = shortest_beginnings(values, beginnings)
    assert short == {"Hardware": "Hardw", "Hardness": "Hardn", "Network": "Netw", "Net": "Net", "Access": "A"}
    assert shortest_beginnings(["only"], beginnings) == {"only": "o"}


def test_the_format_is_an_option_of_the_schema(tmp_path):
    assert COMPACT.fingerprint == SCHEMA.fingerprint, "the records are the same"
    assert (SCHEMA.instructions, COMPACT.instructions) == (DEFAULT_INSTRUCTIONS, COMPACT_INSTRUCTIONS)
    assert COMPACT.in_format("json") == SCHEMA
    own = Schema(name="own", instructions=("Sort it.",), fields=SCHEMA.fields)
    assert own.in_format("compact").instructions == ("Sort it.",)
    path = tmp_path / "schema.yaml"
    path.write_text(schema_yaml(COMPACT))
    assert "format: compact" in path.read_text() and load_schema(path) == COMPACT
    assert "JSON" not in schema_prompt(COMPACT) and "array" not in schema_prompt(COMPACT)
    path.write_text(schema_yaml(COMPACT).replace("format: compact", "format: compct"))
    with pytest.raises(ProblemsError, match="Did you mean 'compact'"):
        load_schema(path)


def test_only_leading_fields_can_be_chosen():
    assert select_fields(COMPACT, ["priority", "summary"]).field_names == ("summary", "priority")
    with pytest.raises(ProblemsError, match=r"known by its line alone.*: summary\."):
        select_fields(COMPACT, ["priority"])

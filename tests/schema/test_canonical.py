"""Canonical JSON and its segments; validator against JSON Schema; normalisation."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schema_strategies import mutated, records, schemas

from triagekit.errors import TriageError
from triagekit.schema import (
    DependentEnumField,
    EnumField,
    Schema,
    TagsField,
    TextField,
    allowed_values,
    canonical_json,
    json_schema,
    load_schema,
    normalise_record,
    normalise_text,
    record_segments,
    schema_prompt,
    validate_record,
    verdict,
)

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TICKET = {
    "summary": 'Printer "Canon" \\ is dead – é',
    "category": "Hardware",
    "subcategory": "Other",
    "priority": "High",
    "assignment_group": "Hardware Support",
    "request_type": "Incident",
}
MIXED = Schema(
    "mixed",
    fields=(
        EnumField("area", ("A", "B"), nullable=True),
        DependentEnumField("part", "area", {"A": ("a1", "a2"), "B": ()}, nullable=True),
        TagsField("tags", ("x", "y", "z"), 2),
        TextField("note", 10, nullable=True),
    ),
)


def shown(segments) -> list[str]:
    return [f"<{segment.text}>" if segment.kind == "value" else segment.text for segment in segments]


def test_segments_of_a_plain_record():
    segments = record_segments(load_schema("it_tickets"), TICKET)
    assert shown(segments) == [
        '{"summary":"',
        '<Printer \\"Canon\\" \\\\ is dead – é>',
        '","category":"',
        "<Hardware>",
        '","subcategory":"',
        "<Other>",
        '","priority":"',
        "<High>",
        '","assignment_group":"',
        "<Hardware Support>",
        '","request_type":"',
        "<Incident>",
        '"}',
    ]
    assert [segment.field for segment in segments if segment.kind == "value"] == list(TICKET)
    assert all(segment.field is None for segment in segments if segment.kind == "skeleton")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"area": "A", "part": "a2", "tags": ["x", "z"], "note": "hi"},
            [
                '{"area":',
                '<">',
                "<A>",
                '","part":',
                '<">',
                "<a2>",
                '","tags":',
                '<[">',
                "<x>",
                '<",">',
                "<z>",
                '<"]>',
                ',"note":',
                '<">',
                "<hi>",
                '"}',
            ],
        ),
        (
            {"area": None, "part": None, "tags": [], "note": None},
            ['{"area":', "<null>", ',"part":', "<null>", ',"tags":', "<[]>", ',"note":', "<null>", "}"],
        ),
        (
            {"area": "B", "part": None, "tags": ["y"], "note": None},
            [
                '{"area":',
                '<">',
                "<B>",
                '","part":',
                "<null>",
                ',"tags":',
                '<[">',
                "<y>",
                '<"]>',
                ',"note":',
                "<null>",
                "}",
            ],
        ),
    ],
)
def test_segments_of_null_and_tags(record, expected):
    assert shown(record_segments(MIXED, record)) == expected


def test_key_order_of_the_record_does_not_matter():
    schema = load_schema("it_tickets")
    assert canonical_json(schema, dict(reversed(TICKET.items()))) == canonical_json(schema, TICKET)


def test_invalid_records_have_no_canonical_form():
    with pytest.raises(TriageError, match="subcategory: 'Malware' does not go with category 'Hardware'"):
        record_segments(load_schema("it_tickets"), TICKET | {"subcategory": "Malware"})


@given(st.data())
@relaxed
def test_canonical_json_round_trips(data):
    schema = data.draw(schemas())
    record = data.draw(records(schema))
    text = canonical_json(schema, record)
    assert json.loads(text) == record
    assert list(json.loads(text)) == list(schema.field_names)
    ordered = {name: record[name] for name in schema.field_names}
    assert text == json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
    segments = record_segments(schema, record)
    assert not any(one.kind == two.kind == "skeleton" for one, two in pairwise(segments))
    assert segments[0].kind == segments[-1].kind == "skeleton"
    text.encode("utf-8")


@given(st.data())
@relaxed
def test_validator_and_json_schema_agree(data):
    schema = data.draw(schemas())
    other = json_schema(schema)
    Draft202012Validator.check_schema(other)
    checker = Draft202012Validator(json.loads(json.dumps(other)))
    record = data.draw(records(schema))
    assert validate_record(schema, record) == []
    assert checker.is_valid(record)
    changed = data.draw(mutated(schema, record))
    problems = [problem for problem in validate_record(schema, changed) if "declared order" not in problem.message]
    assert checker.is_valid(changed) == (not problems)


@given(st.data())
@relaxed
def test_normalising_changes_no_valid_record(data):
    schema = data.draw(schemas())
    record = data.draw(records(schema))
    assert normalise_record(schema, record) == (record, [])


@given(st.text(st.characters()), st.integers(1, 50))
@relaxed
def test_normalised_text(text, length):
    result = normalise_text(text, length)
    assert len(result) <= length
    assert result == normalise_text(result, length)
    assert result == " ".join(result.split())
    result.encode("utf-8")


def test_normalised_text_by_example():
    assert normalise_text("\ufeff a\r\n\tb\x00c  ", 50) == "a b c"
    assert normalise_text("ab cd", 3) == "ab"
    assert normalise_text("\ud83d\ude00\ud83d", 10) == "😀\ufffd"
    assert normalise_text("😀😀😀", 2) == "😀😀"
    assert normalise_text("cafe\u0301", 4) == "café"
    assert normalise_text("\u0958", 2) == "\u0915\u093c" and normalise_text("\u0958", 1) == "\u0915"


def test_labels_written_with_separate_marks_are_recognised():
    schema = Schema(
        name="french",
        title="French",
        description="Labels with letters of more than one mark.",
        fields=(EnumField("category", ("Réseau", "Matériel")),),
        instructions=("Sort it.",),
    )
    assert normalise_record(schema, {"category": "Re\u0301seau"}) == ({"category": "Réseau"}, [])


def test_every_problem_with_the_nearest_value():
    record = {
        "summary": "x" * 201,
        "category": "hardwear",
        "subcategory": "Malware",
        "priority": 3,
        "request_type": None,
        "sumary": "x",
    }
    problems = validate_record(load_schema("it_tickets"), record)
    assert [(problem.field, problem.nearest) for problem in problems] == [
        ("summary", None),
        ("category", "Hardware"),
        ("priority", None),
        ("assignment_group", None),
        ("request_type", None),
        ("sumary", "summary"),
    ]
    assert "at most 200" in problems[0].message
    assert problems[1].value == "hardwear"


def test_bad_pairs_are_told_at_the_child():
    problems = validate_record(load_schema("it_tickets"), TICKET | {"subcategory": "Malware"})
    assert [(problem.field, problem.value) for problem in problems] == [("subcategory", "Malware")]
    assert "only with 'Security'" in problems[0].message
    orphan = validate_record(MIXED, {"area": None, "part": "a1", "tags": [], "note": None})
    assert [problem.message for problem in orphan] == ["must be null where area is null."]


@pytest.mark.parametrize("tags", [["y", "x"], ["x", "x"], ["x", "y", "z"], ["q"], "x", None, [1], [["x"]], {}])
def test_bad_tags(tags):
    assert validate_record(MIXED, {"area": None, "part": None, "tags": tags, "note": None})


@pytest.mark.parametrize("value", [True, 1, 1.5, float("nan"), [], {}, "", "a" * 11, "\ud83d", object()])
def test_bad_text(value):
    problems = validate_record(MIXED, {"area": None, "part": None, "tags": [], "note": value})
    assert [problem.field for problem in problems] == ["note"]
    assert str(problems[0])


def test_numbers_too_long_to_print_are_still_told():
    problems = validate_record(MIXED, {"area": 10**5000, "part": None, "tags": [10**5000], "note": 10**5000})
    assert [problem.field for problem in problems] == ["area", "tags", "note"]
    assert all("beyond 200 bits" in problem.message for problem in problems)


@pytest.mark.parametrize("record", [None, [], "x", 3, [TICKET]])
def test_what_is_no_object(record):
    problems = validate_record(load_schema("it_tickets"), record)
    assert len(problems) == 1
    assert problems[0].field == ""


def test_verdicts():
    problems = validate_record(load_schema("it_tickets"), {})
    assert verdict([]) == "auto"
    assert verdict(problems) == "review"
    assert verdict(problems, parsed=False) == "error"


def test_normalise_reads_what_exports_hold():
    schema = Schema(
        "x",
        fields=(
            TextField("note", 10, nullable=True),
            EnumField("priority", ("Low", "High"), aliases={"P 1": "High"}),
            EnumField("code", ("1", "2")),
            EnumField("group", ("Web Team",), nullable=True),
            TagsField("tags", ("a b", "c"), 2),
        ),
    )
    raw = {"note": "  too long\nfor ten ", "priority": "p  1", "code": 2.0, "group": float("nan"), "tags": "c; A  B"}
    assert normalise_record(schema, raw) == (
        {"note": "too long f", "priority": "High", "code": "2", "group": None, "tags": ["a b", "c"]},
        [],
    )
    record, problems = normalise_record(
        schema, {"note": "", "priority": "Hihg", "group": "web team", "tags": '["c"]', "more": 1}
    )
    assert record == {"note": None, "priority": "Hihg", "group": "Web Team", "tags": ["c"]}
    assert [(problem.field, problem.nearest) for problem in problems] == [
        ("priority", "High"),
        ("code", None),
        ("more", None),
    ]


def test_normalise_spells_children_as_their_parent_does():
    schema = Schema(
        "x",
        fields=(EnumField("a", ("P", "Q")), DependentEnumField("b", "a", {"P": ("other",), "Q": ("Other",)})),
    )
    assert normalise_record(schema, {"a": "p", "b": "OTHER"})[0] == {"a": "P", "b": "other"}
    assert normalise_record(schema, {"a": "q", "b": "OTHER"})[0] == {"a": "Q", "b": "Other"}


def test_values_that_differ_in_case_are_never_guessed():
    schema = Schema("x", fields=(EnumField("a", ("team", "Team")),))
    assert normalise_record(schema, {"a": "Team"}) == ({"a": "Team"}, [])
    assert normalise_record(schema, {"a": "TEAM"})[1]


def test_allowed_values_follow_the_parent():
    schema = load_schema("it_tickets")
    assert allowed_values(schema, "category", {}) == schema.field("category").values
    assert allowed_values(schema, "subcategory", {"category": "Workplace"}) == ("Physical Security", "Other")
    assert allowed_values(schema, "subcategory", {}) == ()
    assert allowed_values(schema, "summary", {}) == ()


def test_prompt_names_every_field_and_value_and_stays_short():
    schema = load_schema("it_tickets")
    prompt = schema_prompt(schema)
    for field in schema.fields:
        assert field.name in prompt
    assert "  Workplace: Physical Security | Other\n" in prompt
    assert "- priority: Low | Medium | High | Critical\n" in prompt
    assert len(prompt) < 1000
    mixed = schema_prompt(MIXED)
    assert "  A: a1 | a2 or null\n  B: null\n" in mixed
    assert "array of at most 2" in mixed
    assert schema_prompt(Schema("x", fields=(EnumField("a", ("b | c", "d")),))).endswith('- a: "b | c" | d')


def test_a_schema_travels_between_processes():
    schema = load_schema("it_tickets")
    validate_record(schema, TICKET)
    copy = pickle.loads(pickle.dumps(schema))
    assert copy == schema
    assert copy.fingerprint == schema.fingerprint

"""Reading schemas: the shipped ones, and every mistake told at once with its line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from schema_strategies import schemas

from triagekit.errors import ProblemsError, TriageError
from triagekit.schema import (
    DependentEnumField,
    EnumField,
    Schema,
    TagsField,
    TextField,
    load_schema,
    schema_yaml,
)

SHIPPED = ("it_tickets", "change_risk", "erp_urgency", "call_centre")


def mistakes(tmp_path, text: str) -> list[str]:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProblemsError) as caught:
        load_schema(path)
    return [str(problem).replace(f"{path}:", "line ") for problem in caught.value.problems]


def test_it_tickets_is_the_six_field_record():
    schema = load_schema("it_tickets")
    assert schema.field_names == (
        "summary",
        "category",
        "subcategory",
        "priority",
        "assignment_group",
        "request_type",
    )
    assert schema.field("summary") == TextField("summary", 200, description=schema.field("summary").description)
    assert schema.field("priority").ordered
    assert [len(field.values) for field in schema.label_fields] == [6, 6, 4, 7, 2]
    subcategory = schema.field("subcategory")
    assert subcategory.values_by_parent["Security"] == (
        "Malware",
        "Policy Violation",
        "Permissions",
        "Login Issues",
        "Other",
    )
    assert sum(len(values) for values in subcategory.values_by_parent.values()) == 16
    assert len(schema.instructions) == 6


def test_other_shipped_schemas_hold_what_they_are_for():
    risk = load_schema("change_risk")
    assert risk.field("risk_level").values == ("low", "medium", "high")
    assert isinstance(risk.field("risk_tags"), TagsField)
    assert isinstance(risk.field("justification"), TextField)
    assert load_schema("erp_urgency").field("urgency").values == ("1", "2", "3", "4", "5")
    call_centre = load_schema("call_centre").field_names
    assert not {"resolution_time", "close_notes", "poor_close_notes", "info_score_close_notes"} & set(call_centre)


@pytest.mark.parametrize("name", SHIPPED)
def test_dict_and_yaml_round_trip(name, tmp_path):
    schema = load_schema(name)
    assert Schema.from_dict(schema.to_dict()) == schema
    path = tmp_path / "copy.yaml"
    path.write_text(schema_yaml(schema), encoding="utf-8")
    copy = load_schema(path)
    assert copy == schema
    assert copy.fingerprint == schema.fingerprint


@given(schemas())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_schema_survives_yaml_and_dict(tmp_path_factory, schema):
    path = tmp_path_factory.mktemp("yaml") / "random.yaml"
    path.write_text(schema_yaml(schema), encoding="utf-8")
    assert load_schema(path) == schema
    assert Schema.from_dict(schema.to_dict()) == schema


def test_fingerprint_is_about_records_only():
    fields = (TextField("summary"), EnumField("priority", ("Low", "High"), aliases={"P1": "High"}))
    schema = Schema("a", fields=fields)
    told = Schema(
        "b",
        "Title",
        "Words",
        ("Do it.",),
        (TextField("summary", description="x"), EnumField("priority", ("Low", "High"))),
    )
    assert told.fingerprint == schema.fingerprint
    others = [
        (EnumField("priority", ("Low", "High")), TextField("summary")),
        (TextField("summary"), EnumField("priority", ("High", "Low"))),
        (TextField("summary", 201), EnumField("priority", ("Low", "High"))),
        (TextField("summary"), EnumField("priority", ("Low", "High"), nullable=True)),
    ]
    assert len({schema.fingerprint, *(Schema("a", fields=other).fingerprint for other in others)}) == 5


def test_children_follow_their_parents_order(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: x\nfields:\n  - {name: a, kind: enum, values: [P, Q]}\n"
        "  - {name: b, kind: enum, depends_on: a, values: {Q: [z], P: [y]}}\n"
        "  - {name: c, kind: enum, depends_on: b, values: {z: ['1'], y: ['2']}}\n"
    )
    schema = load_schema(path)
    assert list(schema.field("b").values_by_parent) == ["P", "Q"]
    assert schema.field("c").values == ("2", "1")


def test_every_mistake_at_once_with_line_and_nearest_name(tmp_path):
    found = mistakes(
        tmp_path,
        """\
name: my schema
titel: x
fields:
  - name: summary
    kind: text
    max_lenght: 10
    max_length: 0
  - name: category
    kind: enum
    values: [Hardware, Hardware, yes, 7, ~, " x", "", 2020-01-01]
  - name: subcategory
    kind: enum
    depends_on: categry
    values: {Hardware: []}
  - name: summary
    kind: txt
  - name: tags
    kind: tags
    optional: true
    max_items: 9
    values: [a, "b\\tc", "%s"]
  - name: 2nd field
    kind: enum
    values: []
    aliases: {x: y}
"""
        % ("v" * 101),
    )
    text = "\n".join(found)
    for expected in (
        "line 1 name: 'my schema' is not a name",
        "line 2 titel: unknown key 'titel'. Did you mean 'title'?",
        "line 6 fields.0.max_lenght: unknown key 'max_lenght'. Did you mean 'max_length'?",
        "line 7 fields.0.max_length: expected a whole number from 1 to 4000, found 0.",
        "line 10 fields.1.values.1: 'Hardware' is here twice",
        "line 10 fields.1.values.2: expected text, found the boolean true",
        'line 10 fields.1.values.3: expected text, found the number 7. Put it in quotes: "7".',
        "line 10 fields.1.values.4: expected text, found nothing",
        "line 10 fields.1.values.5: ' x' begins or ends with a space. Write 'x'.",
        "line 10 fields.1.values.6: the value is empty.",
        "line 10 fields.1.values.7: expected text, found the date 2020-01-01.",
        "line 13 fields.2.depends_on: there is no field 'categry' to depend on. Did you mean 'category'?",
        "line 14 fields.2.values.Hardware: the list of values is empty.",
        "line 15 fields.3.name: 'summary' is already the name of a field (line 4",
        "line 16 fields.3.kind: unknown kind 'txt'. Did you mean 'text'?",
        "line 19 fields.4.optional: tags are never null",
        "line 20 fields.4.max_items: expected a whole number from 1 to 3, found 9.",
        "line 21 fields.4.values.1: 'b\\tc' has a line break, a tab or another control character",
        "has 101 characters; a value has at most 100.",
        "line 22 fields.5.name: '2nd field' cannot be the name of a field",
        "line 24 fields.5.values: the list of values is empty.",
        "line 25 fields.5.aliases.x: 'y' is not a value of this field.",
    ):
        assert expected in text
    assert len(found) == 22


PARENT = "name: x\nfields:\n  - {name: a, kind: enum, values: [P, Q]%s}\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            "  - {name: b, kind: enum, depends_on: a, values: {P: [x]}}",
            ["line 4 fields.1.values: no values are given for a 'Q'."],
        ),
        (
            "  - {name: b, kind: enum, depends_on: a, values: {P: [x], Q: [y], Pp: [z]}}",
            ["line 4 fields.1.values.Pp: 'Pp' is not a value of 'a'. Did you mean 'P'?"],
        ),
        ("  - {name: b, kind: enum, depends_on: b, values: {x: [x]}}", ["in a circle: b → b"]),
        (
            "  - {name: b, kind: enum, depends_on: c, values: {x: [x]}}\n"
            "  - {name: c, kind: enum, depends_on: b, values: {x: [x]}}",
            ["line 4 fields.1.depends_on: fields depend on each other in a circle: b → c → b."],
        ),
        (
            "  - {name: b, kind: enum, depends_on: c, values: {x: [x]}}\n  - {name: c, kind: enum, values: [x]}",
            ["'b' stands before 'c', on which it depends. Move 'b' below 'c'."],
        ),
        (
            "  - {name: t, kind: text}\n  - {name: b, kind: enum, depends_on: t, values: {x: [x]}}",
            ["'t' is not an enum, so nothing can depend on it."],
        ),
        ("  - {name: b, kind: enum, values: {P: [x], Q: [y]}}", ["values per parent need the field they depend on."]),
        ("  - {name: b, kind: enum, depends_on: a, values: [x]}", ["expected values for each value of 'a'."]),
        ("  - {name: b, kind: enum, values: [x], ordered: maybe}", ["expected true or false, found 'maybe'."]),
        ("  - {name: b, kind: enum, values: [X], aliases: {' x': X}}", ["' x' is itself a value ('X'"]),
        ("  - {name: b, kind: enum, values: [X], aliases: {y: X, Y: X}}", ["'Y' is the same alias as 'y'"]),
        ("  - {name: id, kind: text}", ["'id' is taken by a column"]),
        ("  - {name: b, kind: string}", ["unknown kind 'string'. Did you mean 'text'?"]),
        ("  - {kind: text}", ["the key 'name' is missing."]),
        ("  - {name: b}", ["the key 'kind' is missing."]),
        ("  - just words", ["expected a field"]),
        ("  - {name: no, kind: text}", ["expected text, found the boolean false"]),
    ],
)
def test_single_mistakes(tmp_path, fields, expected):
    found = mistakes(tmp_path, PARENT % "" + fields + "\n")
    assert len(found) == len(expected), found
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_child_of_an_optional_field_must_be_optional(tmp_path):
    text = PARENT % ", optional: true" + "  - {name: b, kind: enum, depends_on: a, values: {P: [x], Q: [y]}}\n"
    assert "where it is null 'b' must be null too. Add 'optional: true' here." in mistakes(tmp_path, text)[0]


@pytest.mark.parametrize("text", ["", "[]", "just text", "name: x", "name: x\nfields: []", "fields: 3\nname: x"])
def test_not_a_schema_at_all(tmp_path, text):
    assert mistakes(tmp_path, text)


def test_instructions_are_checked(tmp_path):
    found = mistakes(tmp_path, "name: x\ninstructions: [a, a, 1]\nfields:\n  - {name: t, kind: text}\n")
    assert "'a' stands here twice" in "\n".join(found)
    assert "found the number 1" in "\n".join(found)


def test_a_schema_made_by_hand_is_checked_too():
    with pytest.raises(ProblemsError, match="no field 'category'"):
        Schema("x", fields=(DependentEnumField("sub", "category", {"A": ("b",)}),))
    with pytest.raises(ProblemsError, match="already the name"):
        Schema("x", fields=(TextField("a"), TextField("a")))


def test_unknown_names_give_the_nearest():
    with pytest.raises(TriageError, match="Did you mean 'it_tickets'"):
        load_schema("it_ticket")
    with pytest.raises(TriageError, match="Did you mean 'summary'"):
        load_schema("it_tickets").field("sumary")


def test_importing_the_room_loads_no_library():
    heavy = "{'yaml', 'pydantic', 'rich', 'numpy', 'torch', 'pyarrow'}"
    code = f"import sys, triagekit.schema; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

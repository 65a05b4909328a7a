"""Drafting a schema from labelled data."""

from __future__ import annotations

import random

import pytest

from triagekit.errors import TriageError
from triagekit.schema import (
    DependentEnumField,
    EnumField,
    TagsField,
    TextField,
    infer_schema,
    load_schema,
    normalise_record,
)

CITIES = {"north": ("oslo", "turku", "visby"), "south": ("rome", "athens", "malaga"), "west": ("cork", "brest", "oslo")}


def rows(count: int = 600) -> list[dict]:
    chance = random.Random(1)
    made = []
    for number in range(count):
        region = chance.choice(list(CITIES))
        made.append(
            {
                "note": f"ticket {number} about the printer on desk {number * 7}",
                "region": region,
                "city": chance.choice(CITIES[region]),
                "priority": chance.choice(["High", "low", "LOW", "Medium"]),
                "code": chance.choice([3, 1, 10]),
                "colour": chance.choice(["red", "green", "blue", "grey", "pink", "teal"]),
                "labels": chance.sample(["a", "b", "c"], chance.randint(0, 2)),
                "owner": chance.choice(["ann", None, ""]),
            }
        )
    return made


FIELDS = ["note", "region", "city", "priority", "code", "colour", "labels", "owner"]


def test_kinds_values_and_order(tmp_path):
    data = rows()
    inferred = infer_schema(iter(data), FIELDS, "drafted")
    schema = inferred.schema
    assert isinstance(schema.field("note"), TextField)
    assert schema.field("code").values == ("1", "3", "10")
    priority = schema.field("priority")
    assert [value.lower() for value in priority.values] == ["low", "medium", "high"]
    assert priority.ordered
    assert isinstance(schema.field("labels"), TagsField)
    assert schema.field("labels").max_items == 2
    assert schema.field("owner").nullable
    assert not schema.field("region").nullable
    city = schema.field("city")
    assert isinstance(city, DependentEnumField)
    assert city.parent == "region"
    assert {region: set(cities) for region, cities in city.values_by_parent.items()} == {
        region: set(cities) for region, cities in CITIES.items()
    }
    assert isinstance(schema.field("colour"), EnumField)
    assert inferred.counts["region"] == {
        value: sum(row["region"] == value for row in data) for value in schema.field("region").values
    }
    assert inferred.counts["note"] == {}
    path = tmp_path / "drafted.yaml"
    path.write_text(inferred.yaml, encoding="utf-8")
    assert load_schema(path) == schema
    assert f"- red    # {inferred.counts['colour']['red']}\n" in inferred.yaml
    for row in data:
        assert normalise_record(schema, row)[1] == []


def test_parents_by_hand_and_in_the_right_order():
    inferred = infer_schema(rows(), ["code", "region"], "drafted", {"code": "region"})
    assert inferred.schema.field_names == ("region", "code")
    assert inferred.schema.field("code").parent == "region"
    assert any("a parent stands before" in note for note in inferred.notes)


def test_independent_columns_do_not_depend():
    inferred = infer_schema(rows(), ["region", "colour"], "drafted")
    assert isinstance(inferred.schema.field("colour"), EnumField)


def test_a_few_wrong_labels_do_not_hide_a_dependence():
    data = rows()
    for row in data[::150]:
        row["city"] = "rome"
    assert infer_schema(data, ["region", "city"], "drafted").schema.field("city").parent == "region"


def test_too_few_rows_prove_no_dependence():
    assert isinstance(infer_schema(rows(20), ["region", "city"], "drafted").schema.field("city"), EnumField)


def test_chain_with_missing_children():
    data = []
    for number in range(400):
        top = "ab"[number % 2]
        middle = f"{top}{number % 4}" if top == "a" else None
        data.append({"top": top, "middle": middle, "leaf": middle and f"{middle}-{number % 3}"})
    inferred = infer_schema(data, ["top", "middle", "leaf"], "chain", {"middle": "top", "leaf": "middle"})
    assert inferred.schema.field("middle").values_by_parent["b"] == ()
    assert inferred.schema.field("leaf").nullable
    for row in data:
        assert normalise_record(inferred.schema, row)[1] == []


def test_orphans_are_noted():
    data = [{"a": "x" if number % 5 else None, "b": "y"} for number in range(20)]
    inferred = infer_schema(data, ["a", "b"], "drafted", {"b": "a"})
    assert "4 rows have b but no a; they will not be valid." in inferred.notes


def test_names_that_cannot_be_fields_are_changed_and_noted():
    inferred = infer_schema([{"issue/request": "x", "id": "y", "2nd": "z"}], ["issue/request", "id", "2nd"], "drafted")
    assert inferred.schema.field_names == ("issue_request", "ticket_id", "_2nd")
    assert len([note for note in inferred.notes if "is called" in note]) == 3


def test_everything_in_the_way_is_told_at_once():
    data = [row | {"many": f"v{number % 130}", "blank": " ", "deep": {"a": 1}} for number, row in enumerate(rows(300))]
    with pytest.raises(TriageError) as caught:
        infer_schema(data, ["regoin", "many", "blank", "deep"], "x", {"citty": "regoin"}, ["nothing"])
    text = str(caught.value)
    for part in (
        "'regoin': the data has no such column. Did you mean 'region'?",
        "'many': 130 different values in 300 rows; at most 100 are drafted. Allow more with --max-values 130",
        "'blank': it is empty in all 300 rows.",
        "'deep': it is empty",
        "'citty' is not among the fields.",
        "text 'nothing': it is not among the fields.",
    ):
        assert part in text


def test_circles_by_hand_are_refused():
    with pytest.raises(TriageError, match="circle"):
        infer_schema(rows(), ["region", "city"], "x", {"region": "city", "city": "region"})


def test_text_by_hand():
    assert isinstance(infer_schema(rows(), ["colour"], "x", text_fields=["colour"]).schema.field("colour"), TextField)

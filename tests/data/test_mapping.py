"""Columns to text, labels, ids and slices; the formats of earlier projects; mistakes named with the nearest column."""

import json

import pytest

from triagekit.data.cleaning import CONTROLS, ESCAPES, MOJIBAKE, as_text, clean_text
from triagekit.data.mapping import DataMapping, RowMapper, check_columns
from triagekit.data.pieces import RawRow, Reject
from triagekit.data.prior_formats import flatten, recognise
from triagekit.errors import ProblemsError


def apply(mapping, values, fields=("category",), **options):
    return RowMapper(DataMapping(**mapping), fields, **options).apply(RawRow(1, "a.csv", values))


def test_template_labels_values_constants_and_slices():
    mapping = {
        "rename": {"Ticket No": "number"},
        "id": "number",
        "text": "Subject: {subject}\n{body}",
        "labels": {"category": "kind", "title": ["subject", "body"]},
        "values": {"category": {4: "Access", "": "Unknown"}},
        "constants": {"request_type": "Incident"},
        "slices": {"language": "lang", "source": "channel"},
    }
    values = {"Ticket No": 17.0, "subject": None, "body": "help", "kind": 4, "lang": "en", "channel": ""}
    row = apply(mapping, values, ("category", "title", "request_type"))
    # The line of an empty column is left out, not written as "Subject: ".
    assert (row.id, row.text) == ("17", "help")
    assert row.labels == {"category": "Access", "title": "help", "request_type": "Incident"}
    assert row.slices == {"language": "en"}
    assert apply(mapping, {**values, "kind": None}, ("category",)).labels == {"category": "Unknown"}


def test_without_a_mapping_columns_have_the_schema_s_names():
    row = apply({}, {"id": "1", "text": "x", "Issue/Request": "broken", "language": "es"}, ("issue_request",))
    assert row.labels == {"issue_request": "broken"}
    assert row.slices == {"language": "es"}


def test_tags_by_rule():
    rules = [
        {"tag": "large", "column": "lines", "at_least": 100},
        {"tag": "untested", "column": "tests", "equals": False},
        {"tag": "security", "column": "note", "contains": r"\bcve\b"},
    ]
    mapping = {"text": "note", "tags": {"risk": rules}}
    assert apply(mapping, {"note": "CVE fix", "lines": 5, "tests": False}, ("risk",)).labels == {
        "risk": ["untested", "security"]
    }
    assert apply(mapping, {"note": "x", "lines": "250", "tests": True}, ("risk",)).labels == {"risk": ["large"]}


def test_bad_texts_are_rejected_with_the_reason():
    assert apply({}, {"text": " \n"}).reason == "empty text"
    assert apply({}, {"text": None}).reason == "empty text"
    long = apply({"max_text_characters": 10}, {"text": "x" * 11})
    assert isinstance(long, Reject)
    assert (long.reason, long.detail) == ("text too long", "11 characters; the limit is 10")


def test_every_wrong_column_at_once_with_the_nearest():
    mapping = {"id": "nummer", "text": "{subjct}\n{body}", "labels": {"categry": "kind"}, "slices": {"language": "lan"}}
    mapper = RowMapper(DataMapping(**mapping), ("category", "priority"))
    with pytest.raises(ProblemsError) as raised:
        check_columns(mapper, ["number", "subject", "body", "kind", "lang"], (), "mapping")
    message = str(raised.value)
    for part in ("'subjct'", "Did you mean 'subject'?", "'nummer'", "'number'", "'lan'", "'lang'", "'priority'"):
        assert part in message
    assert "labels.categry: the schema has no such field. Did you mean 'category'?" in message


@pytest.mark.parametrize(
    ("given", "clean", "repairs"),
    [
        ("  Grüße \r\n aus Köln", "Grüße \n aus Köln", ()),
        ("benÃ¶tige fÃ¼r", "benötige für", (MOJIBAKE,)),
        ("donâ€™t", "don’t", (MOJIBAKE,)),
        ("äº§å“_x0081_ä¸Žä»“åº“", "产品与仓库", (ESCAPES, MOJIBAKE)),
        ("bell\x07\ufeff", "bell", (CONTROLS,)),
        ("São Paulo – 北京 – Ñandú", "São Paulo – 北京 – Ñandú", ()),
    ],
)
def test_repairs_are_named(given, clean, repairs):
    assert clean_text(given) == (clean, repairs)


def test_mojibake_can_be_left_alone():
    assert clean_text("fÃ¼r", mend_mojibake=False) == ("fÃ¼r", ())


def test_cells_as_text():
    assert [as_text(v) for v in (None, float("nan"), 4.0, 4.5, True, ["a", 1])] == ["", "", "4", "4.5", "true", "a, 1"]


RECORD = {"category": "Hardware", "priority": "High"}


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ({"instruction": "Convert.", "input": "pc dead", "output": json.dumps(RECORD)}, "instruction", "pc dead"),
        (
            {"instruction": "Classify:\n- Problem: pc\ndead", "output": "- Category: Hardware\n- Priority: High"},
            "instruction",
            "pc\ndead",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "You are."},
                    {"role": "user", "content": [{"type": "text", "text": "pc dead"}]},
                    {"role": "assistant", "content": f"```json\n{json.dumps(RECORD)}\n```"},
                ]
            },
            "messages",
            "pc dead",
        ),
    ],
)
def test_formats_of_earlier_projects(values, kind, text):
    assert recognise(values) == kind
    row = apply({}, values, ("category", "priority"))
    assert (row.text, row.labels) == (text, RECORD)


def test_label_and_text():
    assert recognise({"label": 3, "text": "x"}) == "label_text"
    row = apply({"values": {"group": {3: "Desktop"}}}, {"label": 3, "text": "x"}, ("group",), label_field="group")
    assert row.labels == {"group": "Desktop"}


def test_a_broken_known_format_is_a_reject():
    row = apply({}, {"instruction": "Convert.", "input": "pc dead", "output": "no idea"})
    assert (row.reason, row.detail) == (
        "broken record format",
        "output is neither a JSON object nor '- Key: value' lines",
    )
    assert apply({}, {"messages": [{"role": "assistant", "content": "{}"}]}).detail == "no message with role 'user'"


def test_unlabelled_rows_of_a_known_format_are_read_for_scoring():
    assert flatten({"instruction": "Convert.", "input": "x"}, "instruction", labelled=False)["text"] == "x"


def test_columns_that_only_look_like_a_known_format_stay_columns():
    assert recognise({"label": 3, "text": "x", "subject": "y"}) is None
    row = apply({"text": "text", "labels": {"category": "label"}}, {"label": "Net", "text": "x"})
    assert row.labels == {"category": "Net"}

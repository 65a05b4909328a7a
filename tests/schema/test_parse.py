"""Reading what models write: every repair named, nothing raised."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_strategies import records, schemas

from triagekit.schema import canonical_json, load_schema, parse_record

SCHEMA = load_schema("it_tickets")
RECORD = {
    "summary": "printer {x} is broken",
    "category": "Hardware",
    "subcategory": "Other",
    "priority": "Low",
    "assignment_group": "Facilities",
    "request_type": "Incident",
}
TEXT = json.dumps(RECORD)
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        (TEXT, []),
        (f"\n {json.dumps(RECORD, indent=2)} \n", []),
        (f"```json\n{TEXT}\n```", ["removed a code fence"]),
        (f"```\n{TEXT}", ["removed a code fence"]),
        (f"Sure! {TEXT}", ["removed text before the object"]),
        (f"{TEXT}\nHope it helps.", ["removed text behind the object"]),
        (f"Put {{name}} and {{x: y}} here:\n```json\n{TEXT}\n```\nso {{that}} it fits", None),
        (TEXT[:-1], ["closed what the text left open"]),
        (TEXT[:-2], ["closed what the text left open"]),
        (TEXT[:-1] + ",}", ["removed a comma too many"]),
        (TEXT.replace('", "', '", , "'), ["removed a comma too many"]),
        (TEXT.replace('", "', '" "'), ["added a missing comma"]),
        (TEXT.replace('", "', '"\n"'), ["added a missing comma"]),
        (repr(RECORD), ["replaced single quotes"]),
        (TEXT.replace('"', "`"), ["replaced single quotes"]),
        (
            TEXT.replace('{"', "{“").replace('": "', "”: “").replace('", "', "”, “").replace('"}', "”}"),
            ["replaced typographic quotes"],
        ),
        (f"[{TEXT}]", ["took the only object of a list"]),
        (json.dumps(TEXT), ["unwrapped JSON from inside a JSON text"]),
        (f'{{"ticket": {TEXT}}}', ["took the object under 'ticket'"]),
        (f'{{"result": [{{"ticket": {TEXT}}}]}}', ["took the object under 'ticket'"]),
        (TEXT.replace('"Low"', '"Low" // guessed\n'), ["removed a comment"]),
        (TEXT.replace('"Low"', "Low"), ["put a bare word in quotes"]),
        (TEXT.replace('"priority"', "priority"), ["put a bare key in quotes"]),
        (f'{{"note": 1}} {TEXT}', ["removed text before the object", "picked one of 2 objects"]),
        (
            f"{TEXT}\n### Next ticket\n{TEXT.replace('Low', 'High')}",
            ["removed text behind the object", "picked one of 2 objects"],
        ),
        (TEXT.replace('{"', '{"priority": "High", "', 1), ["kept the last of several 'priority'"]),
        (f'"ticket": {TEXT}', ["removed text before the object"]),
    ],
)  # fmt: skip
def test_repairs(text, repairs):
    parsed = parse_record(SCHEMA, text)
    assert parsed.record == RECORD
    assert parsed.verdict == "auto"
    assert parsed.raw == text
    assert list(parsed.record) == list(RECORD)
    assert parsed.repairs if repairs is None else list(parsed.repairs) == repairs


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'"he said "hi", twice"', 'he said "hi", twice'),
        ('"the "red" light"', 'the "red" light'),
        (r"'it's broken'", "it's broken"),
        ('"two\nlines"', "two\nlines"),
        (r'"C:\Daten\neu"', "C:\\Daten\neu"),
        ('"a {b} c } {"', "a {b} c } {"),
        (r'"caf\u00e9 \ud83d\ude00"', "café 😀"),
        ('"“quoted”"', "“quoted”"),
        (r"'don\'t'", "don't"),
        ('"http://x.org/a?b=1, ok"', "http://x.org/a?b=1, ok"),
    ],
)
def test_text_is_read_as_it_was_meant(written, read):
    parsed = parse_record(SCHEMA, TEXT.replace('"printer {x} is broken"', written))
    assert parsed.record == RECORD | {"summary": read}


@pytest.mark.parametrize(
    ("written", "value", "repair"),
    [
        ("NaN", None, "read NaN as null"),
        ("Infinity", None, "read Infinity as null"),
        ("None", None, "read None as JSON"),
        ("True", True, "read True as JSON"),
        ("1e999", None, "read a number too large as null"),
        ("+5", 5, "read a number that is not written as JSON"),
        ('"\\ud83d"', "\ufffd", "replaced half of a UTF-16 pair"),
        (",", None, "put null for a missing value"),
    ],
)
def test_values_json_cannot_hold(written, value, repair):
    parsed = parse_record(SCHEMA, TEXT.replace('"Low"', written))
    assert parsed.record == RECORD | {"priority": value}
    assert repair in parsed.repairs
    assert parsed.verdict == "review"
    assert [problem.field for problem in parsed.problems] == ["priority"]


def test_a_record_that_was_cut_off_keeps_what_is_there():
    parsed = parse_record(SCHEMA, TEXT[: TEXT.index("subcategory") + 4])
    assert parsed.record == {"summary": RECORD["summary"], "category": "Hardware"}
    assert parsed.repairs == ("closed what the text left open",)
    assert parsed.verdict == "review"


def test_the_best_object_wins():
    worse = TEXT.replace("Hardware", "Hadware")
    assert parse_record(SCHEMA, f"draft {worse} final {TEXT}").record == RECORD
    assert parse_record(SCHEMA, f"{TEXT} not {worse}").record == RECORD


@pytest.mark.parametrize(
    "text", ["", " ", "no idea", "{", "}{", "{name: see below}", "null", "[]", "[1, 2]", "12", '"x"']
)
def test_nothing_to_read(text):
    parsed = parse_record(SCHEMA, text)
    assert parsed.record is None
    assert parsed.verdict == "error"
    assert parsed.problems
    assert parsed.raw == text


def test_an_object_of_another_kind_is_for_review():
    assert parse_record(SCHEMA, '{"a": 1}').verdict == "review"
    assert parse_record(SCHEMA, "{}").verdict == "review"


ODD_WORDS = [
    '"summary"',
    "category",
    ": ",
    '", "',
    "null",
    "NaN",
    "\\u",
    "```json",
    "//",
    "/*",
    "\ud83d",
    TEXT,
    TEXT[:40],
]
pieces = st.sampled_from([*"{}[]\",:'“”`\\/\n 1-", *ODD_WORDS])


@settings(relaxed, max_examples=200)
@given(st.one_of(st.text(st.characters()), st.lists(pieces, max_size=25).map("".join)))
def test_never_raises_and_always_writable(text):
    parsed = parse_record(SCHEMA, text)
    assert (parsed.record is None) == (parsed.verdict == "error")
    json.dumps(parsed.record, ensure_ascii=False, allow_nan=False).encode("utf-8")


@given(st.data())
@relaxed
def test_canonical_json_needs_no_repair_even_inside_chatter(data):
    schema = data.draw(schemas())
    record = data.draw(records(schema))
    text = canonical_json(schema, record)
    parsed = parse_record(schema, text)
    assert (parsed.record, parsed.repairs, parsed.verdict) == (record, (), "auto")
    assert parse_record(schema, f"Here: {text} as asked").record == record


HOSTILE = {
    "brackets": "[" * 100_000,
    "nested objects": '{"a":' * 50_000,
    "braces": "{" * 200_000,
    "open texts": '{"a":"' * 50_000,
    "keys without colon": '{"x {"x ' * 50_000,
    "python members": "{'a': 'b' " * 30_000,
    "digits": "1" * 10_000,
    "long number": '{"summary":' + "1" * 10_000 + "}",
    "deep strict": '{"summary":' + "[" * 900 + "]" * 900 + "}",
    "comments": "{" + "/* " * 50_000,
    "backslashes": '{"summary":' + '"\\' * 50_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_read_in_bounded_time(text):
    start = time.process_time()
    json.dumps(parse_record(SCHEMA, text).record, allow_nan=False)
    assert time.process_time() - start < 5

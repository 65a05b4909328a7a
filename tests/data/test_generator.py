"""The ticket generator: unique, deterministic, valid, and honest about what decides a label."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from triagekit.data.generator import generate_tickets
from triagekit.data.generator.catalogue import LANGUAGES, families, issue_kinds, phrases, slot_values
from triagekit.errors import TriageError
from triagekit.schema import load_schema, validate_record

SLOT = re.compile(r"<([a-z_]+)>")


@pytest.fixture(scope="module")
def tickets() -> list[dict[str, str]]:
    return list(generate_tickets(5000, seed=7))


def test_texts_are_unique(tickets):
    assert len({ticket["text"] for ticket in tickets}) >= 0.98 * len(tickets)
    assert len({ticket["id"] for ticket in tickets}) == len(tickets)


def test_same_seed_gives_the_same_rows_and_another_seed_others(tickets):
    assert list(generate_tickets(300, seed=7)) == tickets[:300]
    other = {ticket["text"] for ticket in generate_tickets(300, seed=8)}
    assert not other & {ticket["text"] for ticket in tickets[:300]}


def test_every_row_is_valid_under_the_schema(tickets):
    schema = load_schema("it_tickets")
    for ticket in tickets:
        record = {name: ticket[name] for name in schema.field_names}
        assert validate_record(schema, record) == [], ticket
        assert ticket["text"].strip()


def test_every_value_of_every_field_occurs(tickets):
    schema = load_schema("it_tickets")
    for field in schema.label_fields:
        assert {ticket[field.name] for ticket in tickets} == set(field.values)


def test_train_and_test_share_no_family_and_no_wording():
    train = list(generate_tickets(3000, seed=1, families="train"))
    test = list(generate_tickets(1500, seed=2, families="test"))
    assert not {ticket["family"] for ticket in train} & {ticket["family"] for ticket in test}
    assert not {ticket["text"] for ticket in train} & {ticket["text"] for ticket in test}
    wordings = {part: {family.wording for family in families() if family.part == part} for part in ("train", "test")}
    assert not wordings["train"] & wordings["test"]


def test_there_are_many_hundreds_of_families():
    assert len(families()) >= 700
    assert len({family.name for family in families()}) == len(families())
    # Each issue kind can be learnt from one part and tested on the other, in both languages.
    assert Counter((family.kind.name, family.language, family.part) for family in families()).keys() == {
        (kind.name, language, part) for kind in issue_kinds() for language in LANGUAGES for part in ("train", "test")
    }


def test_spanish_share_is_what_was_asked_for(tickets):
    share = sum(ticket["language"] == "es" for ticket in tickets) / len(tickets)
    assert 0.12 < share < 0.18
    assert {ticket["language"] for ticket in generate_tickets(50, seed=1, spanish_share=0.0)} == {"en"}
    assert {ticket["language"] for ticket in generate_tickets(50, seed=1, spanish_share=1.0)} == {"es"}


def test_urgent_tone_goes_with_priority_but_misleads_now_and_then(tickets):
    loud = re.compile(
        r"urgent|asap|help!!|emergency|top priority|critical!!|immediately|urgente|ayuda|emergencia", re.I
    )
    share = {
        level: sum(bool(loud.search(ticket["text"])) for ticket in rows) / len(rows)
        for level in ("Low", "Medium", "High", "Critical")
        if (rows := [ticket for ticket in tickets if ticket["priority"] == level])
    }
    assert share["Low"] < share["High"] < share["Critical"]
    assert share["Critical"] > 2 * share["Medium"]
    assert share["Low"] > 0.01


def test_stated_effect_decides_the_priority(tickets):
    words = phrases("en", "train")
    rank = {"Low": 0, "Medium": 1, "High": 2, "Critical": 3}

    def mean(points: int) -> float:
        found = [
            rank[ticket["priority"]]
            for ticket in tickets
            if any(effect.split("<")[0] in ticket["text"] for effect in words.effects[points])
        ]
        assert len(found) > 30
        return sum(found) / len(found)

    assert mean(-1) + 0.5 < mean(1) < mean(2)


def test_a_summary_names_nothing_that_the_text_leaves_out():
    for family in families():
        left_out = set(SLOT.findall(family.kind.summary)) - set(SLOT.findall(family.wording))
        assert left_out <= set(phrases(family.language, family.part).mentions), family.name


def test_every_slot_and_topic_is_known():
    known = {*slot_values(), "person"}
    for family in families():
        assert set(SLOT.findall(family.wording + family.kind.summary)) <= known, family.name
        assert phrases(family.language, family.part).areas[family.kind.topic]


def test_no_slot_is_left_unfilled_and_numbers_are_kept(tickets):
    placeholder = re.compile(r"<(" + "|".join([*slot_values(), "person", "symptom", "effect", "area"]) + ")>")
    assert not [ticket for ticket in tickets if placeholder.search(ticket["text"] + ticket["summary"])]
    assert not [ticket for ticket in tickets if "^" in ticket["text"] or "@" in ticket["summary"]]


def test_a_linear_model_is_neither_helpless_nor_perfect():
    from sklearn import svm
    from sklearn.feature_extraction import text as feature_extraction

    train = list(generate_tickets(3000, seed=1, families="train"))
    test = list(generate_tickets(1000, seed=2, families="test"))
    vectorizer = feature_extraction.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    matrix = vectorizer.fit_transform([ticket["text"] for ticket in train])
    model = svm.LinearSVC().fit(matrix, [ticket["category"] for ticket in train])
    given = vectorizer.transform([ticket["text"] for ticket in test])
    assert 0.65 < model.score(given, [ticket["category"] for ticket in test]) < 0.95


def test_wrong_arguments_are_refused():
    with pytest.raises(TriageError, match="it_tickets"):
        next(generate_tickets(1, seed=1, schema="banking77"))
    with pytest.raises(TriageError, match="spanish_share"):
        next(generate_tickets(1, seed=1, spanish_share=1.5))

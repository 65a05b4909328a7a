"""The grammar writes every valid record and nothing else."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest
from scoring_helpers import CORNERS_SCHEMA, LABELS_SCHEMA, SCHEMAS, TICKETS_SCHEMA, segments_for

from triagekit.decoding.grammar import RecordGrammar
from triagekit.errors import ProblemsError
from triagekit.schema import (
    DependentEnumField,
    EnumField,
    Schema,
    TagsField,
    TextField,
    canonical_json,
    normalise_text,
    parse_record,
    validate_record,
)


@pytest.fixture(params=["byte_tokenizer", "piece_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> object:
    return request.getfixturevalue(request.param)


def random_record(schema: Schema, source: random.Random) -> dict[str, Any]:
    """Any valid record, null and empty values included."""
    from triagekit.schema import allowed_values

    record: dict[str, Any] = {}
    for field in schema.fields:
        if isinstance(field, TagsField):
            count = source.randint(0, min(field.max_items, len(field.values)))
            chosen = set(source.sample(field.values, count))
            record[field.name] = [value for value in field.values if value in chosen]
            continue
        if field.nullable and source.random() < 0.3:
            record[field.name] = None
            continue
        if isinstance(field, TextField):
            letters = 'abc XYZ09.,:"\\/éñ日🖨¿—'
            text = "".join(source.choices(letters, k=source.randint(1, field.max_length)))
            record[field.name] = normalise_text(text, field.max_length) or "q"
            continue
        values = allowed_values(schema, field.name, record)
        record[field.name] = source.choice(values) if values else None
    assert validate_record(schema, record) == []
    return record


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_valid_record_can_be_written_with_its_training_tokens(tokenizer: object, name: str) -> None:
    segments = segments_for(tokenizer, SCHEMAS[name])
    grammar = RecordGrammar.compile(segments)
    source = random.Random(1)
    for _ in range(300):
        record = random_record(SCHEMAS[name], source)
        ids = [token for _, piece in segments.record_ids(record) for token in piece]
        assert tuple(ids[: len(grammar.start_ids)]) == grammar.start_ids
        walk = grammar.start()
        for token in ids[len(grammar.start_ids) :]:
            assert token in walk.allowed(), (record, segments.decode([token]), walk.record())
            walk.advance(token)
        assert walk.finished
        assert walk.record() == record


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_tokens_always_end_in_a_valid_record(tokenizer: object, name: str) -> None:
    schema = SCHEMAS[name]
    segments = segments_for(tokenizer, schema)
    grammar = RecordGrammar.compile(segments)
    source = np.random.default_rng(2)
    for _ in range(300):
        walk = grammar.start()
        ids = list(grammar.start_ids)
        while not walk.finished:
            allowed = walk.allowed()
            assert len(allowed) > 0
            token = int(source.choice(allowed))
            walk.advance(token)
            ids.append(token)
        record = walk.record()
        assert validate_record(schema, record) == [], record
        written = segments.decode(ids)
        parsed = json.loads(written) if schema.format == "json" else parse_record(schema, written).record
        for field in schema.fields:
            if isinstance(field, TextField) and parsed[field.name] is not None:
                parsed[field.name] = normalise_text(parsed[field.name], field.max_length)
        assert canonical_json(schema, parsed) == canonical_json(schema, record)


def all_records(segments: Any) -> list[dict[str, Any]]:
    """Every record of a grammar without free text, by walking every path."""
    grammar = RecordGrammar.compile(segments)
    waiting: list[tuple[int, ...]] = [()]
    records = []
    while waiting:
        taken = waiting.pop()
        walk = grammar.start()
        for token in taken:
            walk.advance(token)
        if walk.finished:
            records.append(walk.record())
        else:
            waiting.extend((*taken, int(token)) for token in walk.allowed())
    return records


@pytest.mark.parametrize("name", ["labels", "labels, compact"])
def test_the_language_is_exactly_the_set_of_valid_records(tokenizer: object, name: str) -> None:
    found = [canonical_json(LABELS_SCHEMA, record) for record in all_records(segments_for(tokenizer, SCHEMAS[name]))]
    marks = [combination for size in range(3) for combination in itertools.combinations("abcd", size)]
    details = {"low": ["fine"], "medium": ["watch", "wait"], "high": ["stop"]}
    expected = [
        canonical_json(LABELS_SCHEMA, {"only": "always", "risk": risk, "detail": detail, "marks": list(combination)})
        for risk, allowed in details.items()
        for detail in allowed
        for combination in marks
    ]
    assert sorted(found) == sorted(expected)


def test_text_never_grows_beyond_its_characters_and_ends_where_they_are_used_up(tokenizer: object) -> None:
    grammar = RecordGrammar.compile(segments_for(tokenizer, TICKETS_SCHEMA))
    span = grammar.texts[0]
    walk = grammar.start()
    while walk.text is not None:
        allowed = [token for token in walk.allowed() if token != span.terminator]
        if not allowed:
            break
        walk.advance(int(allowed[-1]))
    assert walk.text_left == 0
    assert walk.allowed().tolist() == [span.terminator]
    walk.advance(span.terminator)
    assert 30 <= len(walk.record()["summary"]) <= 40


def test_special_tokens_are_never_text(tokenizer: Any) -> None:
    grammar = RecordGrammar.compile(segments_for(tokenizer, TICKETS_SCHEMA))
    walk = grammar.start()
    assert walk.text is not None
    assert not set(walk.allowed().tolist()) & set(tokenizer.all_special_ids)


def test_a_token_that_is_not_allowed_is_refused(byte_tokenizer: Any) -> None:
    grammar = RecordGrammar.compile(segments_for(byte_tokenizer, LABELS_SCHEMA))
    walk = grammar.start()
    refused = next(token for token in range(len(byte_tokenizer)) if token not in walk.allowed())
    with pytest.raises(ValueError, match="not allowed"):
        walk.advance(refused)
    text = RecordGrammar.compile(segments_for(byte_tokenizer, TICKETS_SCHEMA)).start()
    with pytest.raises(ValueError, match="not allowed"):
        text.advance(byte_tokenizer.eos_token_id)


def test_many_values_do_not_copy_what_stands_between_parent_and_child(byte_tokenizer: Any) -> None:
    parents = tuple(f"team {number}" for number in range(300))
    between = tuple(f"site {number}" for number in range(300))
    schema = Schema(
        name="wide",
        title="Wide",
        description="Many values between a parent and its child.",
        fields=(
            EnumField("parent", parents),
            EnumField("between", between),
            DependentEnumField("child", "parent", {parent: ("one", "two", f"only {parent}") for parent in parents}),
        ),
    )
    grammar = RecordGrammar.compile(segments_for(byte_tokenizer, schema, max_length=16_384))
    assert len(grammar.node_field) < 12_000
    walk = grammar.start()
    source = np.random.default_rng(3)
    while not walk.finished:
        walk.advance(int(source.choice(walk.allowed())))
    assert validate_record(schema, walk.record()) == []


def test_values_that_become_the_same_tokens_are_refused_by_name(byte_tokenizer: Any) -> None:
    class Blind:
        """A tokenizer that sees no case."""

        def __init__(self, segments: Any) -> None:
            self.schema, self.tokenizer, self._segments = segments.schema, segments.tokenizer, segments

        def encode_piece(self, text: str) -> tuple[int, ...]:
            return self._segments.encode_piece(text.lower())

        def value_ids(self, field: str, value: str) -> tuple[int, ...]:
            return self.encode_piece(value)

    schema = Schema(name="case", title="Case", description="", fields=(EnumField("kind", ("Open", "open", "closed")),))
    with pytest.raises(ProblemsError, match=r"field 'kind'.*same tokens"):
        RecordGrammar.compile(Blind(segments_for(byte_tokenizer, schema)))


def test_corner_values_really_are_prefixes(byte_tokenizer: Any) -> None:
    segments = segments_for(byte_tokenizer, CORNERS_SCHEMA)
    pieces = [segments.encode_piece(value) for value in ("a", "aa", "aaa")]
    assert any(longer[: len(shorter)] == shorter for shorter, longer in itertools.permutations(pieces, 2))

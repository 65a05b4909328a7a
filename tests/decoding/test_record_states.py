"""A batch of records goes the same way through the tables as each of them by itself through the grammar."""

from __future__ import annotations

import math
import random

import pytest
import torch
from scoring_helpers import SCHEMAS, segments_for

from triagekit.decoding.decoder import record_room
from triagekit.decoding.grammar import RecordGrammar, RecordWalk
from triagekit.decoding.grammar_tables import GrammarTables
from triagekit.decoding.record_states import FINISHED, IN_TEXT, RecordStates
from triagekit.schema import EnumField, Schema, TextField, validate_record

ROWS = 24
CPU = torch.device("cpu")


class Follower:
    """Replays what a row emits in the grammar's own walk, token by token."""

    def __init__(self, grammar: RecordGrammar) -> None:
        self.walk: RecordWalk = grammar.start()
        self.read = len(grammar.start_ids)

    def catch_up(self, tokens: list[int]) -> None:
        for token in tokens[self.read :]:
            assert token in self.walk.allowed()
            self.walk.advance(token)
        self.read = len(tokens)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("kind", ["byte_tokenizer", "piece_tokenizer"])
def test_a_batch_walks_as_each_record_by_itself(
    request: pytest.FixtureRequest, kind: str, name: str, static: bool
) -> None:
    segments = segments_for(request.getfixturevalue(kind), SCHEMAS[name])
    grammar = RecordGrammar.compile(segments)
    tables = GrammarTables.of(grammar, CPU)
    states = RecordStates(grammar, tables, ROWS, record_room(segments, grammar), CPU, static=static)
    source = random.Random(5)
    for round_number in range(3):  # slots are used again for other records
        rows = torch.arange(ROWS)
        states.begin(rows)
        followers = [Follower(grammar) for _ in range(ROWS)]
        choices = [0] * ROWS
        while len(rows):
            for row in rows.tolist():
                followers[row].catch_up(states.tokens[row, : int(states.count[row])].tolist())
                assert not followers[row].walk.finished
            counts, ways = states.look(rows).tolist()
            assert counts == states.count[rows].tolist()
            in_text = torch.tensor([way == IN_TEXT for way in ways])
            assert torch.equal(in_text, states.in_text(rows))
            for part, is_text in ((rows[in_text], True), (rows[~in_text], False)):
                if not len(part):
                    continue
                spans, allowed = (None, states.text_fits(part)) if is_text else states.edges(part, max(ways))
                picked = []
                for number, row in enumerate(part.tolist()):
                    columns = allowed[number].nonzero()[:, 0].tolist()
                    first = {
                        column: column
                        if spans is None
                        else int(tables.span_token[tables.span_start[spans[number, column]]])
                        for column in columns
                    }
                    assert sorted(first.values()) == followers[row].walk.allowed().tolist()
                    assert list(first.values()) == sorted(first.values()), "the lowest id must win among equals"
                    open_text = is_text and int(states.text_left[row]) > 0
                    assert static or open_text or len(first) > 1, "what is forced needs no choice"
                    picked.append(source.choice(columns))
                    choices[row] += 1
                share = torch.full((len(part),), math.log(0.5))
                chosen = torch.tensor(picked)
                if spans is None:
                    states.take_text(part, chosen, share)
                else:
                    states.take_edges(part, spans[torch.arange(len(part)), chosen], share)
            rows = rows[torch.tensor([way != FINISHED for way in states.look(rows)[1]])]
        everything = torch.arange(ROWS)
        for row, result in enumerate(states.results(everything, [round_number] * ROWS)):
            followers[row].catch_up(states.tokens[row, : int(states.count[row])].tolist())
            assert followers[row].walk.finished
            assert result.record == followers[row].walk.record()
            assert validate_record(segments.schema, result.record) == []
            assert result.tokens == followers[row].read
            assert math.prod(result.confidence.values()) == pytest.approx(0.5 ** choices[row], rel=1e-4)


def test_wide_fields_have_tables_of_their_size(byte_tokenizer: object) -> None:
    """10,000 values: a table's size follows the tokens of the values, not their number times the vocabulary's."""
    values = tuple(f"queue {number:05d}" for number in range(10_000))
    schema = Schema(
        name="wide", instructions=("x",), fields=(EnumField("queue", values), TextField("note", max_length=5))
    )
    segments = segments_for(byte_tokenizer, schema)
    grammar = RecordGrammar.compile(segments)
    tables = GrammarTables.of(grammar, CPU)
    states = RecordStates(grammar, tables, 2, record_room(segments, grammar), CPU)
    rows = torch.arange(2)
    states.begin(rows)
    opening = segments.decode(states.tokens[0, : int(states.count[0])].tolist())
    assert opening == '{"queue":"queue 0'
    assert len(tables.listed_tokens) < 200
    assert int(tables.edge_count.max()) <= len(byte_tokenizer)  # type: ignore[arg-type]

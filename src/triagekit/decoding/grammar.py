"""The record grammar of a schema over a tokenizer's tokens, as flat arrays, and one record's walk through it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from triagekit.decoding.text_automaton import FORBIDDEN, NORMAL, SPACE, START, TextAutomaton
from triagekit.schema.canonical import normalise_text
from triagekit.schema.fields import TagsField, TextField

if TYPE_CHECKING:
    from collections.abc import Iterable

    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.schema.schema import Schema

END = 0
"""The node at which a record is complete."""
NO_VALUE = -1
NULL = -2
NO_FIELD = -1


@dataclass(frozen=True)
class TextSpan:
    """A free-text value inside the grammar: where it ends and how long it may be."""

    field: int
    limit: int
    terminator: int
    target: int


@dataclass(frozen=True)
class RecordGrammar:
    """Every token sequence that is a valid record in its schema's format, and no other.

    Nodes are numbers; node n owns the edges `edge_start[n]` … `edge_start[n + 1] - 1`. Following an edge emits
    `edge_token` and leads to `edge_target`; a negative target -2 - j is jump j, which reads the value chosen earlier
    for field `jump_field[j]`: dependent enums need no copy of what stands between parent and child.
    `edge_value` is the value (index into the field's `values`, NULL, or NO_VALUE) that is settled by taking the edge.
    Tag edges are conditional: `edge_last_tag` is the highest tag that the edge can lead to (-1: no condition) and must
    be above the last one taken, and `edge_room` more tags than taken so far must fit.
    `node_field` is the field that a choice at the node belongs to, NO_FIELD inside skeleton.
    `node_text` is the index in `texts` of a free-text node, else -1. `escapes`: free text is the content of a JSON string.
    """

    schema: Schema
    start_ids: tuple[int, ...]
    start_target: int
    edge_start: np.ndarray
    edge_token: np.ndarray
    edge_target: np.ndarray
    edge_value: np.ndarray
    edge_last_tag: np.ndarray
    edge_room: np.ndarray
    node_field: np.ndarray
    node_text: np.ndarray
    jump_field: tuple[int, ...]
    jump_target: tuple[dict[int, int], ...]
    texts: tuple[TextSpan, ...]
    escapes: bool
    automaton: TextAutomaton | None
    vocabulary: tuple[bytes | None, ...] = field(repr=False)

    @staticmethod
    def compile(segments: SegmentTokenizer, schema: Schema | None = None) -> RecordGrammar:
        """Compile the schema of `segments`, or `schema` (fewer of its fields), over its tokenizer.

        Raises TriageError where the tokenizer cannot tell two values apart, or cannot write text.
        """
        from triagekit.decoding.grammar_builder import build_grammar

        return build_grammar(segments, schema or segments.schema)

    def text_of(self, tokens: Iterable[int], limit: int) -> str:
        """The value that the tokens of a free text spell. The automaton lets only whole characters and escapes through."""
        content = b"".join(self.vocabulary[token] or b"" for token in tokens)
        text = json.loads(b'"' + content + b'"') if self.escapes else content.decode("utf-8")
        return normalise_text(text, limit)

    def start(self) -> RecordWalk:
        """A walk that stands after the first skeleton, `start_ids`."""
        walk = RecordWalk(self)
        walk.enter(self.start_target)
        return walk


class RecordWalk:
    """One record while it is being written: the node, the values settled so far, and the text being written."""

    __slots__ = ("grammar", "node", "tags", "text_content", "text_left", "text_state", "values")

    def __init__(self, grammar: RecordGrammar) -> None:
        self.grammar = grammar
        self.node = END
        self.values: list[Any] = [NO_VALUE] * len(grammar.schema.fields)
        self.tags: list[int] = []
        self.text_state = START
        self.text_left = 0
        self.text_content: list[int] = []

    @property
    def finished(self) -> bool:
        """Whether the record is complete."""
        return self.node == END

    @property
    def field(self) -> int:
        """Index of the field that a choice here belongs to; NO_FIELD in skeleton, where there is no choice."""
        return int(self.grammar.node_field[self.node])

    @property
    def text(self) -> TextSpan | None:
        """The free-text value that is being written, or None."""
        index = int(self.grammar.node_text[self.node])
        return self.grammar.texts[index] if index >= 0 else None

    @property
    def may_end_text(self) -> bool:
        """Whether the text being written may end here."""
        return self.text_state in (NORMAL, SPACE)

    @property
    def text_left_capped(self) -> int:
        """Characters that the text may still take, below the cost of a forbidden token."""
        return min(self.text_left, FORBIDDEN - 1)

    def allowed(self) -> np.ndarray:
        """Ids of all tokens that may come next, ascending. Never empty before the end of the record."""
        span = self.text
        if span is None:
            return np.sort(self.grammar.edge_token[self.edges()])
        automaton = self.grammar.automaton
        assert automaton is not None
        fits = automaton.cost[self.text_state] <= self.text_left_capped
        if self.may_end_text:
            # Where the text may end, the token that ends it never counts as text.
            fits[span.terminator] = True
        return np.flatnonzero(fits)

    def edges(self) -> np.ndarray:
        """Edges that may be taken from a node outside free text."""
        grammar = self.grammar
        edges = np.arange(grammar.edge_start[self.node], grammar.edge_start[self.node + 1])
        if len(edges) < 2:
            return edges
        last_tag = grammar.edge_last_tag[edges]
        if (last_tag < 0).all():
            return edges
        last = self.tags[-1] if self.tags else -1
        kind = grammar.schema.fields[self.field]
        assert isinstance(kind, TagsField)
        room = kind.max_items - len(self.tags)
        return edges[(last_tag < 0) | ((last_tag > last) & (grammar.edge_room[edges] <= room))]

    def advance(self, token: int) -> None:
        """Take one token. Raises ValueError for a token that is not allowed here."""
        span = self.text
        if span is not None:
            self._advance_text(span, token)
            return
        grammar = self.grammar
        edges = self.edges()
        match = edges[grammar.edge_token[edges] == token]
        if not len(match):
            raise ValueError(f"token {token} is not allowed at node {self.node}")
        edge = int(match[0])
        value = int(grammar.edge_value[edge])
        if value != NO_VALUE:
            self._settle(self.field, value)
        self.enter(int(grammar.edge_target[edge]))

    def enter(self, target: int) -> None:
        """Stand at a node, or at the one that a jump leads to."""
        grammar = self.grammar
        if target < 0:
            jump = -2 - target
            target = grammar.jump_target[jump][self.values[grammar.jump_field[jump]]]
        self.node = target
        span = self.text
        if span is not None:
            self.text_state, self.text_left, self.text_content = START, span.limit, []
            return
        owner = int(grammar.node_field[target])
        if owner != NO_FIELD and self.values[owner] == NO_VALUE and isinstance(grammar.schema.fields[owner], TagsField):
            self.tags = self.values[owner] = []

    def record(self) -> dict[str, Any]:
        """The record written so far; fields not settled yet are absent."""
        result: dict[str, Any] = {}
        for kind, value in zip(self.grammar.schema.fields, self.values, strict=True):
            if isinstance(value, int) and value == NO_VALUE:
                continue
            if isinstance(value, int) and value == NULL:
                result[kind.name] = None
            elif isinstance(kind, TextField):
                result[kind.name] = value
            elif isinstance(kind, TagsField):
                result[kind.name] = [kind.values[index] for index in value]
            else:
                result[kind.name] = kind.values[value]
        return result

    def _settle(self, field_index: int, value: int) -> None:
        if value >= 0 and isinstance(self.grammar.schema.fields[field_index], TagsField):
            self.tags.append(value)
        else:
            self.values[field_index] = value

    def _advance_text(self, span: TextSpan, token: int) -> None:
        grammar = self.grammar
        if token == span.terminator and self.may_end_text:
            self.values[span.field] = grammar.text_of(self.text_content, span.limit)
            self.enter(span.target)
            return
        automaton = grammar.automaton
        assert automaton is not None
        cost = int(automaton.cost[self.text_state, token]) if token < automaton.cost.shape[1] else FORBIDDEN
        if cost == FORBIDDEN or cost > self.text_left:
            raise ValueError(f"token {token} is not allowed in the text of field {span.field}")
        self.text_state = int(automaton.target[self.text_state, token])
        self.text_left -= cost
        self.text_content.append(token)

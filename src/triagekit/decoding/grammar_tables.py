"""The record grammar as flat tensors, so that a whole batch walks through it in a few tensor operations.

Every node, and every jump of a dependent field, is a place. Tokens that are the only ones allowed are taken as spans: the
choice of an edge emits its token and all that follow by force, up to the next place where something has to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from triagekit.decoding.grammar import NO_VALUE, NULL
from triagekit.decoding.text_automaton import FORBIDDEN
from triagekit.schema.fields import TagsField

if TYPE_CHECKING:
    from triagekit.decoding.grammar import RecordGrammar

NO_SPAN = -1
VALUE_OFFSET = -NULL
"""Added to a value to make it an index of `jump_target`: null is 0, no value 1, the first value 2."""
NEVER_FITS = np.iinfo(np.int32).max


@dataclass(frozen=True)
class GrammarTables:
    """Tensors on one device. P places, S spans, J jumps, F fields, X text spans.

    A span is what one step emits: `span_length` tokens from `span_start` in `span_token`, then `span_next` (a place); it
    settles `span_value` of field `span_field`, or nothing where that is NO_VALUE.
    `place_span` [P]: the span that follows by force; NO_SPAN where there is a choice, a jump, a text or the end.
    `place_text` [P]: the text (0 … X-1) that is written there, else -1. `place_jump` [P]: the jump, else -1.
    `place_field` [P]: the field that a choice there belongs to.
    Edges of a place are spans `edge_start` … + `edge_count` - 1, their first tokens ascending; `edge_column` [S] is the
    place of that token in `listed_tokens`, ascending, which holds every token that is written outside free text.
    `edge_last_tag`, `edge_room` [S] as in the grammar. `conditional` [P]: whether the place has edges with a condition.
    `jump_target` [J, values + 2], `jump_field` [J].
    `text_cost` [states, vocabulary] int32 (NEVER_FITS where forbidden), `text_state` the state after the token.
    """

    start_tokens: torch.Tensor
    start_place: int
    span_start: torch.Tensor
    span_length: torch.Tensor
    span_next: torch.Tensor
    span_field: torch.Tensor
    span_value: torch.Tensor
    span_token: torch.Tensor
    longest_span: int
    place_span: torch.Tensor
    place_text: torch.Tensor
    place_jump: torch.Tensor
    place_field: torch.Tensor
    edge_start: torch.Tensor
    edge_count: torch.Tensor
    edge_column: torch.Tensor
    edge_last_tag: torch.Tensor
    edge_room: torch.Tensor
    widest: int
    """Edges of the widest place, at least one."""
    conditional: torch.Tensor
    widest_conditional: int
    """Edges of the widest place with conditions; 0 where no tags are written."""
    listed_tokens: torch.Tensor
    jump_target: torch.Tensor
    jump_field: torch.Tensor
    text_field: torch.Tensor
    text_limit: torch.Tensor
    text_terminator: torch.Tensor
    text_next: torch.Tensor
    text_cost: torch.Tensor | None
    text_state: torch.Tensor | None
    tag_field: torch.Tensor
    tag_items: torch.Tensor
    hops: int
    """Spans that may follow one another by force: how often a step looks for one more."""

    @staticmethod
    def of(grammar: RecordGrammar, device: torch.device) -> GrammarTables:
        """Compile `grammar` for `device`."""
        return _TableBuilder(grammar).build(device)


class _TableBuilder:
    def __init__(self, grammar: RecordGrammar) -> None:
        self.grammar = grammar
        self.nodes = len(grammar.node_field)
        self.counts = np.diff(grammar.edge_start)
        self.spans: list[tuple[int, list[int], int, int, int]] = []
        """(edge, tokens, next place, field, value)"""

    def build(self, device: torch.device) -> GrammarTables:
        grammar = self.grammar
        places = self.nodes + len(grammar.jump_field)
        place_span = np.full(places, NO_SPAN)
        edge_start, edge_count = np.zeros(places, np.int64), np.zeros(places, np.int64)
        for node in range(self.nodes):
            edge_start[node], edge_count[node] = len(self.spans), self.counts[node]
            if self._forced(node):
                place_span[node] = len(self.spans)
            edges = range(int(grammar.edge_start[node]), int(grammar.edge_start[node + 1]))
            for edge in sorted(edges, key=lambda number: int(grammar.edge_token[number])):
                self._add(edge, node)
        edges_of_spans = np.array([edge for edge, *_ in self.spans], dtype=np.int64)
        tokens = grammar.edge_token[edges_of_spans]
        listed, edge_column = np.unique(tokens, return_inverse=True)
        lengths = np.array([len(emitted) for _, emitted, *_ in self.spans], dtype=np.int64)
        last_tag = grammar.edge_last_tag[edges_of_spans]
        conditional = np.zeros(places, dtype=bool)
        for node in np.flatnonzero(edge_count > 1).tolist():
            conditional[node] = (last_tag[edge_start[node] : edge_start[node] + edge_count[node]] >= 0).any()
        tags = [isinstance(field, TagsField) for field in grammar.schema.fields]

        def tensor(values: Sequence[int] | np.ndarray, kind: torch.dtype = torch.long) -> torch.Tensor:
            return torch.as_tensor(np.asarray(values), dtype=kind).to(device)

        def never_empty(values: Sequence[int] | np.ndarray) -> torch.Tensor:
            # A schema of free text alone may have none; where none is taken, one is still looked at.
            return tensor(values if len(values) else [0])

        cost, state = self._text_tables()
        return GrammarTables(
            start_tokens=tensor(grammar.start_ids),
            start_place=self._place(grammar.start_target),
            span_start=never_empty(np.cumsum(lengths) - lengths),
            span_length=never_empty(lengths),
            span_next=never_empty([following for _, _, following, _, _ in self.spans]),
            span_field=never_empty([max(field, 0) for _, _, _, field, _ in self.spans]),
            span_value=never_empty([value for *_, value in self.spans]),
            span_token=never_empty([token for _, emitted, *_ in self.spans for token in emitted]),
            longest_span=max([int(lengths.max(initial=1)), len(grammar.start_ids)]),
            place_span=tensor(place_span),
            place_text=tensor(np.concatenate([grammar.node_text, np.full(places - self.nodes, -1)])),
            place_jump=tensor(np.concatenate([np.full(self.nodes, -1), np.arange(places - self.nodes)])),
            place_field=tensor(np.concatenate([grammar.node_field, np.full(places - self.nodes, -1)])),
            edge_start=tensor(edge_start),
            edge_count=tensor(edge_count),
            edge_column=never_empty(edge_column),
            edge_last_tag=never_empty(last_tag),
            edge_room=never_empty(grammar.edge_room[edges_of_spans]),
            widest=int(edge_count.max(initial=1)),
            conditional=tensor(conditional, torch.bool),
            widest_conditional=int(edge_count[conditional].max(initial=0)),
            listed_tokens=never_empty(listed),
            jump_target=tensor(self._jump_table()),
            jump_field=tensor(grammar.jump_field),
            text_field=tensor([span.field for span in grammar.texts]),
            text_limit=tensor([span.limit for span in grammar.texts]),
            text_terminator=tensor([span.terminator for span in grammar.texts]),
            text_next=tensor([self._place(span.target) for span in grammar.texts]),
            text_cost=None if cost is None else tensor(cost, torch.int32),
            text_state=None if state is None else tensor(state, torch.int32),
            tag_field=tensor(tags, torch.bool),
            tag_items=tensor([getattr(field, "max_items", 0) for field in grammar.schema.fields]),
            hops=self._hops(place_span),
        )

    def _place(self, target: int) -> int:
        return target if target >= 0 else self.nodes + (-2 - target)

    def _forced(self, node: int) -> bool:
        """Whether there is one way on only. A lone edge has no condition, as in the grammar's own walk."""
        return bool(self.counts[node] == 1)

    def _add(self, edge: int, node: int) -> int:
        """A span: the edge, and every edge that follows by force until one more value would be settled."""
        grammar, first = self.grammar, edge
        tokens: list[int] = []
        field, value = -1, NO_VALUE
        while True:
            settled = int(grammar.edge_value[edge])
            if settled != NO_VALUE:
                if value != NO_VALUE:
                    break
                field, value = int(grammar.node_field[node]), settled
            tokens.append(int(grammar.edge_token[edge]))
            target = int(grammar.edge_target[edge])
            node = target
            if target < 0 or not self._forced(target):
                break
            edge = int(grammar.edge_start[target])
        self.spans.append((first, tokens, self._place(node), field, value))
        return len(self.spans) - 1

    def _jump_table(self) -> np.ndarray:
        grammar = self.grammar
        width = max([len(getattr(field, "values", ())) for field in grammar.schema.fields], default=0) + VALUE_OFFSET
        table = np.zeros((len(grammar.jump_field), width), dtype=np.int64)
        for jump, targets in enumerate(grammar.jump_target):
            for value, target in targets.items():
                table[jump, value + VALUE_OFFSET] = self._place(target)
        return table

    def _hops(self, place_span: np.ndarray) -> int:
        """The most spans that can follow one another by force, values that jumps read left out of account."""
        known: dict[int, int] = {}

        def hops(place: int) -> int:
            if place not in known:
                if place >= self.nodes:
                    targets = self.grammar.jump_target[place - self.nodes].values()
                    known[place] = max((hops(self._place(target)) for target in targets), default=0)
                else:
                    span = place_span[place]
                    known[place] = 0 if span == NO_SPAN else 1 + hops(self.spans[span][2])
            return known[place]

        # A full text and the conditions on tags can leave one way on as well: beyond the bound that is a choice of one.
        return 2 + max((hops(place) for place in range(self.nodes + len(self.grammar.jump_field))), default=0)

    def _text_tables(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        automaton = self.grammar.automaton
        if automaton is None:
            return None, None
        cost = automaton.cost.astype(np.int32)
        cost[automaton.cost == FORBIDDEN] = NEVER_FITS
        return cost, automaton.target

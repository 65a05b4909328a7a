"""The records of a batch while they are being written: one row of each tensor a record, advanced without a loop over rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from triagekit.decoding.grammar import END, NO_VALUE, NULL
from triagekit.decoding.grammar_tables import NO_SPAN, VALUE_OFFSET
from triagekit.decoding.record import DecodedRecord, decoded_record
from triagekit.decoding.text_automaton import NORMAL, SPACE, START
from triagekit.schema.fields import TagsField, TextField

if TYPE_CHECKING:
    from triagekit.decoding.grammar import RecordGrammar
    from triagekit.decoding.grammar_tables import GrammarTables

FINISHED, IN_TEXT = -1, 0
"""Ways on from where a record stands, if it is not among so many edges."""
_NO_TAG = -1
_NOT_BEGUN = -1


class RecordStates:
    """State of `rows` records. `tokens` [rows, room] holds what each has emitted, `count` how many; the last column is
    where tokens go that are none.

    Methods that take `rows` (indices, distinct) advance those records only. No method waits for a GPU, but for `look` and
    `results`.
    """

    def __init__(
        self,
        grammar: RecordGrammar,
        tables: GrammarTables,
        rows: int,
        room: int,
        device: torch.device,
        static: bool | None = None,
    ) -> None:
        """`room`: tokens that the longest record can have. `static`: never look at a value to find out how much there is
        to do, because that would wait for the device (default: not on a CPU)."""
        self.grammar = grammar
        self.tables = tables
        self._static = device.type != "cpu" if static is None else static
        fields = len(grammar.schema.fields)
        most_tags = max([kind.max_items for kind in grammar.schema.fields if isinstance(kind, TagsField)], default=0)

        def zeros(*shape: int, kind: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(rows, *shape, dtype=kind, device=device)

        self.tokens, self.count = zeros(room + 1), zeros()
        self.place = zeros()
        self.values = zeros(fields)
        self.tags, self.tag_count, self.last_tag = zeros(fields, most_tags + 1), zeros(fields), zeros(fields)
        self.text_state, self.text_left = zeros(), zeros(kind=torch.int32)
        self.text_begin, self.text_end = zeros(fields), zeros(fields)
        self.log_confidence = zeros(fields, kind=torch.float32)
        self._columns = torch.arange(tables.longest_span, device=device)

    def begin(self, rows: torch.Tensor) -> None:
        """Start anew in these rows: the first skeleton is emitted, and all that follows by force."""
        for tensor in (self.count, self.tag_count, self.text_end, self.log_confidence):
            tensor[rows] = 0
        self.text_begin[rows] = _NOT_BEGUN
        self.values[rows] = NO_VALUE
        self.last_tag[rows] = _NO_TAG
        self.place[rows] = self.tables.start_place
        start = self.tables.start_tokens
        self.tokens[rows, : len(start)] = start
        self.count[rows] = len(start)
        self._follow(rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop every row but these, in this order."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor) and value is not self._columns:
                setattr(self, name, value[rows])

    def field(self, rows: torch.Tensor) -> torch.Tensor:
        """The field that the choice at each row's place belongs to."""
        return self.tables.place_field[self.place[rows]].clamp(min=0)

    def in_text(self, rows: torch.Tensor) -> torch.Tensor:
        """Which rows are writing free text."""
        return self.tables.place_text[self.place[rows]] >= 0

    def look(self, rows: torch.Tensor) -> np.ndarray:
        """[2, rows]: how many tokens each row has emitted, and its ways on: the number of edges to choose among, IN_TEXT or
        FINISHED. All that a batch has to know of values from pass to pass, in one transfer."""
        place = self.place[rows]
        ways = torch.where(self.in_text(rows), IN_TEXT, self.tables.edge_count[place])
        numbers: np.ndarray = torch.stack([self.count[rows], torch.where(place == END, FINISHED, ways)]).cpu().numpy()
        return numbers

    def text_room(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the free text of each row: its state, the cost that still fits, the token that ends it, and if it may end."""
        state = self.text_state[rows]
        terminator = self.tables.text_terminator[self.tables.place_text[self.place[rows]]]
        return state, self.text_left[rows], terminator, _may_end(state)

    def text_fits(self, rows: torch.Tensor) -> torch.Tensor:
        """Tokens that may follow in the free text of each row, boolean [rows, vocabulary]."""
        assert self.tables.text_cost is not None
        state, left, terminator, may_end = self.text_room(rows)
        fits = self.tables.text_cost[state] <= left[:, None]
        # Where the text may end, the token that ends it never counts as text.
        fits.scatter_(1, terminator[:, None], fits.gather(1, terminator[:, None]) | may_end[:, None])
        return fits

    def edges(self, rows: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The edges of each row's place as span numbers [rows, width], first tokens ascending, and which may be taken."""
        tables = self.tables
        place = self.place[rows]
        offsets = torch.arange(width, device=place.device)
        spans = tables.edge_start[place][:, None] + offsets
        allowed = offsets < tables.edge_count[place][:, None]
        spans = spans.clamp(max=max(len(tables.span_length) - 1, 0))
        if tables.widest_conditional:
            field = self.field(rows)
            last = self.last_tag[rows, field][:, None]
            room = (tables.tag_items[field] - self.tag_count[rows, field])[:, None]
            condition = tables.edge_last_tag[spans]
            allowed &= (condition < 0) | ((condition > last) & (tables.edge_room[spans] <= room))
        return spans, allowed

    def take_edges(self, rows: torch.Tensor, spans: torch.Tensor, log_share: torch.Tensor) -> None:
        """Take the chosen edges. `log_share`: natural logarithm of each choice's share among what was allowed."""
        self.log_confidence[rows, self.field(rows)] += log_share
        self._take(rows, spans, torch.ones_like(rows, dtype=torch.bool))
        self._follow(rows)

    def take_text(self, rows: torch.Tensor, tokens: torch.Tensor, log_share: torch.Tensor) -> None:
        """Take the chosen tokens of free text."""
        self.log_confidence[rows, self.field(rows)] += log_share
        self._write_text(rows, tokens)
        self._follow(rows)

    def take_either(
        self,
        rows: torch.Tensor,
        choosing: torch.Tensor,
        edges: tuple[torch.Tensor, torch.Tensor],
        text: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """In the rows that are `choosing`, take the token of `text` where free text is written, and the edge elsewhere, each
        with its `log_share`. What is given for the other rows may be anything."""
        in_text = self.in_text(rows)
        share = edges[1] if text is None else torch.where(in_text, text[1], edges[1])
        self.log_confidence[rows, self.field(rows)] += torch.where(choosing, share, 0.0)
        self._take(rows, edges[0], choosing & ~in_text)
        if text is not None:
            self._write_text(rows, text[0], choosing & in_text)
        self._follow(rows)

    def results(self, rows: torch.Tensor, tokens_cut: list[int]) -> list[DecodedRecord]:
        """The finished records of these rows. `tokens_cut`: of each ticket's end."""
        count, values = self.count[rows].tolist(), self.values[rows].tolist()
        tokens, tags = self.tokens[rows, : max(count)].tolist(), self.tags[rows].tolist()
        tag_count, log_confidence = self.tag_count[rows].tolist(), self.log_confidence[rows].tolist()
        begin, end = self.text_begin[rows].tolist(), self.text_end[rows].tolist()
        results = []
        for row, cut in enumerate(tokens_cut):
            record: dict[str, Any] = {}
            for index, kind in enumerate(self.grammar.schema.fields):
                value = values[row][index]
                if value == NULL:
                    record[kind.name] = None
                elif isinstance(kind, TextField):
                    span = tokens[row][begin[row][index] : end[row][index]]
                    record[kind.name] = self.grammar.text_of(span, kind.max_length)
                elif isinstance(kind, TagsField):
                    record[kind.name] = [kind.values[tag] for tag in tags[row][index][: tag_count[row][index]]]
                else:
                    record[kind.name] = kind.values[value]
            results.append(decoded_record(self.grammar.schema, record, log_confidence[row], count[row], cut))
        return results

    def _write_text(self, rows: torch.Tensor, tokens: torch.Tensor, moving: torch.Tensor | None = None) -> None:
        """Write one token of free text in the rows that are `moving` (all without)."""
        tables = self.tables
        assert tables.text_cost is not None and tables.text_state is not None
        state = self.text_state[rows]
        ends = _may_end(state) & (tokens == tables.text_terminator[tables.place_text[self.place[rows]]])
        goes_on = ~ends
        if moving is not None:
            ends, goes_on = ends & moving, goes_on & moving
        self.text_state[rows] = torch.where(goes_on, tables.text_state[state, tokens].long(), state)
        self.text_left[rows] -= torch.where(goes_on, tables.text_cost[state, tokens], 0)
        self._emit(rows, tokens, moving)
        self._end_text(rows, ends)

    def _follow(self, rows: torch.Tensor) -> None:
        """Take all that follows by force in these rows: jumps, spans, texts that are full, tags of which one is left."""
        tables = self.tables
        for _ in range(tables.hops):
            place = self._jumped(rows)
            spans = tables.place_span[place]
            moving = spans != NO_SPAN
            if tables.widest_conditional:
                lone, only = self._only_edge(rows)
                spans, moving = torch.where(lone, only, spans), moving | lone
            full = self._full_text(rows)
            if not self._static and not bool((moving | full).any()):
                return
            self._take(rows, spans.clamp(min=0), moving)
            self._emit(rows, self._terminator(rows), full)
            self._end_text(rows, full)
        self._jumped(rows)

    def _jumped(self, rows: torch.Tensor) -> torch.Tensor:
        """Each row's place, behind the jump where it stood at one."""
        tables = self.tables
        place = self.place[rows]
        if len(tables.jump_field):
            jump = tables.place_jump[place]
            of_jump = jump.clamp(min=0)
            value = self.values[rows, tables.jump_field[of_jump]]
            place = torch.where(jump >= 0, tables.jump_target[of_jump, value + VALUE_OFFSET], place)
            self.place[rows] = place
        self._open_text(rows, place)
        return place

    def _open_text(self, rows: torch.Tensor, place: torch.Tensor) -> None:
        """Begin the free text of rows that have just come to one: it has an end only when it was left."""
        tables = self.tables
        if tables.text_cost is None:
            return
        text = tables.place_text[place]
        field = tables.text_field[text.clamp(min=0)]
        opens = (text >= 0) & (self.text_begin[rows, field] == _NOT_BEGUN)
        self.text_begin[rows, field] = torch.where(opens, self.count[rows], self.text_begin[rows, field])
        self.text_state[rows] = torch.where(opens, START, self.text_state[rows])
        limit = tables.text_limit[text.clamp(min=0)].to(torch.int32)
        self.text_left[rows] = torch.where(opens, limit, self.text_left[rows])

    def _full_text(self, rows: torch.Tensor) -> torch.Tensor:
        if self.tables.text_cost is None:
            return torch.zeros_like(rows, dtype=torch.bool)
        return self.in_text(rows) & (self.text_left[rows] == 0) & _may_end(self.text_state[rows])

    def _terminator(self, rows: torch.Tensor) -> torch.Tensor:
        if self.tables.text_cost is None:
            return torch.zeros_like(rows)
        return self.tables.text_terminator[self.tables.place_text[self.place[rows]].clamp(min=0)]

    def _end_text(self, rows: torch.Tensor, ends: torch.Tensor) -> None:
        tables = self.tables
        if tables.text_cost is None:
            return
        text = tables.place_text[self.place[rows]].clamp(min=0)
        field = tables.text_field[text]
        self.text_end[rows, field] = torch.where(ends, self.count[rows] - 1, self.text_end[rows, field])
        self.place[rows] = torch.where(ends, tables.text_next[text], self.place[rows])

    def _only_edge(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows whose place has edges with conditions of which one is met, and that edge."""
        conditional = self.tables.conditional[self.place[rows]]
        spans, allowed = self.edges(rows, self.tables.widest_conditional)
        only = spans.gather(1, allowed.long().argmax(1, keepdim=True))[:, 0]
        return conditional & (allowed.sum(1) == 1), only

    def _take(self, rows: torch.Tensor, spans: torch.Tensor, moving: torch.Tensor) -> None:
        """Emit a span in the rows that are `moving`, settle its value, and stand behind it."""
        tables = self.tables
        length = torch.where(moving, tables.span_length[spans], 0)
        count = self.count[rows]
        source = (tables.span_start[spans][:, None] + self._columns).clamp(max=len(tables.span_token) - 1)
        nowhere = self.tokens.shape[1] - 1
        target = torch.where(self._columns < length[:, None], count[:, None] + self._columns, nowhere)
        self.tokens[rows[:, None], target] = tables.span_token[source]
        self.count[rows] = count + length
        value, field = tables.span_value[spans], tables.span_field[spans]
        settles = moving & (value != NO_VALUE)
        tagged = settles & tables.tag_field[field] & (value >= 0)
        self.values[rows, field] = torch.where(settles & ~tagged, value, self.values[rows, field])
        if self.tags.shape[2] > 1:
            number = self.tag_count[rows, field]
            spare = self.tags.shape[2] - 1
            self.tags[rows, field, torch.where(tagged, number, spare)] = value
            self.tag_count[rows, field] = number + tagged
            self.last_tag[rows, field] = torch.where(tagged, value, self.last_tag[rows, field])
        self.place[rows] = torch.where(moving, tables.span_next[spans], self.place[rows])

    def _emit(self, rows: torch.Tensor, tokens: torch.Tensor, moving: torch.Tensor | None = None) -> None:
        """Emit one token in the rows that are `moving` (all without)."""
        count = self.count[rows]
        if moving is None:
            self.tokens[rows, count] = tokens
            self.count[rows] = count + 1
        else:
            self.tokens[rows, torch.where(moving, count, self.tokens.shape[1] - 1)] = tokens
            self.count[rows] = count + moving


def _may_end(state: torch.Tensor) -> torch.Tensor:
    """Whether text in these states may end: at least one character stands, and none is half written."""
    return (state == NORMAL) | (state == SPACE)

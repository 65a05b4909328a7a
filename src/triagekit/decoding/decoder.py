"""The batched decoder: shared prompt prefix, forced spans, continuous batching; equal to the reference decoder."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from triagekit.decoding.chooser import Chooser
from triagekit.decoding.counts import DecodeCounts
from triagekit.decoding.grammar import RecordGrammar
from triagekit.decoding.grammar_tables import GrammarTables
from triagekit.decoding.key_value_store import KeyValueStore
from triagekit.decoding.lanes import lane_count, run_lanes
from triagekit.decoding.passes import PrefixPass, PromptPass, RecordPass
from triagekit.decoding.prefixed_attention import last_hidden_states, prefixed_attention_of
from triagekit.decoding.record import DecodedRecord
from triagekit.decoding.record_states import FINISHED, RecordStates
from triagekit.decoding.transfer import on_device
from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model, project_to_logits
from triagekit.modeling.int8_linear import Int8Linear

if TYPE_CHECKING:
    from torch import nn

    from triagekit.modeling.segments import SegmentTokenizer

DEFAULT_BATCH_SIZE = 128
_REFILL_SHARE = 0.25
"""New rows come in when this share of the slots is free: a prompt pass of a few rows would use the machine badly."""
_PROMPT_TOKENS = 8192
"""At most in one prompt pass, padding of its attention included (a longer ticket goes alone): what it takes while it runs
grows with them, and a machine is well used by far fewer."""
_COMPACT_BELOW = 0.5
"""Slots are given up when no rows wait and fewer than this share of them is busy: copying costs more before."""


@dataclass(frozen=True)
class _Waiting:
    place: int
    ids: list[int]
    cut: int


class BatchedDecoder:
    """Greedy decoding of many tickets that can only write valid records.

    A token that is the only one allowed costs no forward pass of its own: it goes in with the next choice. The keys and
    values of the prompt's common prefix are computed once per decoder and copied for no row. A row that is finished gives
    its slot to one that waits. Not for use from several threads at once.
    """

    def __init__(
        self,
        model: nn.Module,
        segments: SegmentTokenizer,
        batch_size: int = DEFAULT_BATCH_SIZE,
        grammar: RecordGrammar | None = None,
    ) -> None:
        """Raises TriageError for a model whose attention cannot be run over packed rows."""
        self.grammar = grammar or RecordGrammar.compile(segments)
        self.batch_size = batch_size
        self.counts = DecodeCounts()
        self._model = model.eval()
        self._segments = segments
        self._device = causal_model(model).get_input_embeddings().weight.device
        self._tables = GrammarTables.of(self.grammar, self._device)
        self._chooser = Chooser(model, self._tables)
        self._prefix_ids = list(segments.prefix_ids(0))
        self._prefix: PrefixPass | None = None
        self._room = record_room(segments, self.grammar)
        self._opening = self._opening_tokens()
        self._check_model()

    @torch.inference_mode()
    def decode(self, texts: Sequence[str]) -> list[DecodedRecord]:
        """Records of `texts`, in their order. The longest tickets come first, so that like stands by like."""
        room = self._segments.ticket_room(0)
        rows = []
        for place, text in enumerate(texts):
            ticket, cut = self._segments.ticket_ids(text, room)
            rows.append(_Waiting(place, [*ticket, *self._segments.suffix_ids, *self._opening], cut))
        rows.sort(key=lambda row: len(row.ids), reverse=True)
        results: dict[int, DecodedRecord] = {}
        if rows:
            batches: list[_Batch] = []

            @torch.inference_mode()
            def lane(own: Sequence[_Waiting], stop: threading.Event) -> None:
                batch = _Batch(self, own, results)
                batches.append(batch)
                batch.run(stop)

            with prefixed_attention_of(self._model):
                self._compute_prefix()
                run_lanes(lane, rows, lane_count(self._model, len(rows)))
            for batch in batches:
                self.counts.add(batch.counts)
        self.counts.rows += len(rows)
        return [results[place] for place in range(len(texts))]

    def states(self, slots: int) -> RecordStates:
        """State of as many records."""
        return RecordStates(self.grammar, self._tables, slots, self._room, self._device)

    def advance(
        self, states: RecordStates, slots: torch.Tensor, ways: Sequence[int], prefixed: PromptPass | RecordPass
    ) -> None:
        """One forward pass, and the choice of each row behind it, among its `ways` on."""
        self._chooser.advance(states, slots, ways, last_hidden_states(self._model, prefixed))

    def store(self, slots: int) -> KeyValueStore:
        """Room for the keys and values of as many rows, behind the prefix."""
        return KeyValueStore(self._prefix, slots)

    def _compute_prefix(self) -> None:
        if self._prefix is None and self._prefix_ids:
            self._prefix = PrefixPass(self._prefix_ids, self._device)
            last_hidden_states(self._model, self._prefix)

    def _opening_tokens(self) -> list[int]:
        """What every record begins with."""
        states = self.states(1)
        states.begin(torch.zeros(1, dtype=torch.long, device=self._device))
        return [int(token) for token in states.tokens[0, : int(states.count[0])]]

    @torch.inference_mode()
    def _check_model(self) -> None:
        """Prove on a few tokens that packed rows give the model's own logits; other kinds of attention are refused."""
        causal = causal_model(self._model)
        prefix, rows = [1, 2, 3], [[4, 5, 6], [7]]
        whole = [[*prefix, *row, 8] for row in rows]
        own = torch.stack(
            [causal(input_ids=torch.tensor([row], device=self._device), use_cache=False).logits[0, -1] for row in whole]
        ).float()
        slots = range(len(rows))
        try:
            with prefixed_attention_of(self._model):
                first = PrefixPass(prefix, self._device)
                last_hidden_states(self._model, first)
                store = KeyValueStore(first, len(rows))
                last_hidden_states(self._model, PromptPass(store, slots, rows, self._device))
                tokens = torch.full((len(rows), 1), 8, device=self._device)
                states = last_hidden_states(
                    self._model, RecordPass(store, slots, [len(row) for row in rows], tokens, [0, 0], [1, 1])
                )
                ours = project_to_logits(self._model, states).float()
        except (TypeError, AttributeError, RuntimeError, KeyError) as error:
            raise TriageError(f"{type(causal).__name__} cannot run over packed rows: {error}") from error
        # Where activations are rounded, a difference in the last place can grow to a step.
        exact = causal.dtype == torch.float32 and not any(isinstance(part, Int8Linear) for part in causal.modules())
        tolerance = 1e-4 if exact else 5e-2
        difference = float((own - ours).abs().max() / own.abs().max().clamp(min=1e-6))
        if not difference <= tolerance:
            raise TriageError(
                f"{type(causal).__name__} gives other logits over packed rows than by itself (relative difference "
                f"{difference:.2g}); its kind of attention is not known here. Choose a base of another architecture."
            )


class _Batch:
    """One call of `decode`: slots that hold rows being written, and rows that wait for one."""

    def __init__(self, decoder: BatchedDecoder, rows: Sequence[_Waiting], results: dict[int, DecodedRecord]) -> None:
        self._decoder = decoder
        self.counts = DecodeCounts()
        self._waiting = deque(rows)
        self._results = results
        self._slots = min(decoder.batch_size, len(rows))
        self._states = decoder.states(self._slots)
        self._store = decoder.store(self._slots)
        self._device = self._states.count.device
        self._rows: list[_Waiting | None] = [None] * self._slots
        # Of each slot, on the host: tokens stored, tokens of the record that are stored, tokens of the record, ways on.
        self._length, self._sent, self._count, self._ways = ([0] * self._slots for _ in range(4))

    def run(self, stop: threading.Event) -> None:
        """Until every row has its record, or there is no use in going on."""
        while not stop.is_set():
            free = [slot for slot, row in enumerate(self._rows) if row is None]
            if self._waiting and len(free) >= _REFILL_SHARE * self._slots:
                self._begin(free)
                continue
            busy = [slot for slot, row in enumerate(self._rows) if row is not None]
            if not busy:
                return
            if not self._waiting and len(busy) < _COMPACT_BELOW * self._slots:
                self._compact(busy)
                continue
            self._go_on(busy)

    def _begin(self, free: list[int]) -> None:
        """Rows that wait take free slots; their prompts go through the model, and the first choice is made."""
        # The longest come first, so that the first one's length is that of all in attention.
        fitting = max(1, _PROMPT_TOKENS // len(self._waiting[0].ids))
        free = free[: min(len(self._waiting), fitting)]
        rows = [self._waiting.popleft() for _ in free]
        slots = on_device(free, self._device)
        self._states.begin(slots)
        self._look(free, slots)
        for slot, row in zip(free, rows, strict=True):
            self._rows[slot] = row
            self._length[slot], self._sent[slot] = len(row.ids), self._count[slot]
        if self._collect(free):
            return  # nothing to choose in any record of this schema
        prefixed = PromptPass(self._store, free, [row.ids for row in rows], self._device)
        self.counts.prompt_tokens += prefixed.tokens
        self.counts.padded_prompt_tokens += prefixed.padded_tokens
        self._advance(free, slots, prefixed)

    def _go_on(self, busy: list[int]) -> None:
        """What each row has emitted goes through the model, and its next choice is made."""
        length, sent, count = ([values[slot] for slot in busy] for values in (self._length, self._sent, self._count))
        prefixed = RecordPass(self._store, busy, length, self._states.tokens, sent, count)
        self.counts.slot_steps += self._slots
        self.counts.busy_slot_steps += len(busy)
        for slot in busy:
            self._length[slot] += self._count[slot] - self._sent[slot]
            self._sent[slot] = self._count[slot]
        self._advance(busy, on_device(busy, self._device), prefixed)

    def _advance(self, places: list[int], slots: torch.Tensor, prefixed: PromptPass | RecordPass) -> None:
        self.counts.passes += 1
        self.counts.tokens += prefixed.tokens
        self._decoder.advance(self._states, slots, [self._ways[place] for place in places], prefixed)
        self._look(places, slots)
        self._collect(places)

    def _look(self, places: list[int], slots: torch.Tensor) -> None:
        """The only look at values that every pass takes: a GPU is waited for here, and besides only to read finished records."""
        for place, count, ways in zip(places, *self._states.look(slots), strict=True):
            self._count[place], self._ways[place] = count, ways

    def _collect(self, slots: list[int]) -> bool:
        """Take finished records out of their slots; whether all of these were finished."""
        done = [slot for slot in slots if self._ways[slot] == FINISHED]
        if done:
            rows = [row for slot in done if (row := self._rows[slot]) is not None]
            records = self._states.results(on_device(done, self._device), [row.cut for row in rows])
            for slot, row, record in zip(done, rows, records, strict=True):
                self._results[row.place] = record
                self._rows[slot] = None
        return len(done) == len(slots)

    def _compact(self, busy: list[int]) -> None:
        index = on_device(busy, self._device)
        self._store.keep(index)
        self._states.keep(index)
        for values in (self._length, self._sent, self._count, self._ways):
            values[:] = [values[slot] for slot in busy]
        self._rows = [self._rows[slot] for slot in busy]
        self._slots = len(busy)


def record_room(segments: SegmentTokenizer, grammar: RecordGrammar) -> int:
    """Tokens that the longest record can have: text of which every byte is a token, behind an escape each."""
    text = sum(4 * span.limit + 1 for span in grammar.texts)
    return segments.record_reserve + text

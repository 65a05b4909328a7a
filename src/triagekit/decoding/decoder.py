"""The batched decoder: shared prompt prefix, forced spans, continuous batching; equal to the reference decoder."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from triagekit.decoding.batch import Batch, WaitingRow
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
from triagekit.decoding.recorded_step import recorder_for
from triagekit.decoding.static_batch import StaticBatch
from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model, project_to_logits
from triagekit.modeling.int8_linear import Int8Linear

if TYPE_CHECKING:
    from torch import nn

    from triagekit.modeling.segments import SegmentTokenizer

DEFAULT_BATCH_SIZE = 128
_SLOTS_OF_STATIC_BATCHES = (8, 32)
"""Beside the batch size: a static batch does the work of all its slots, however few rows there are."""
_COMPARED = 8
"""Tickets that show whether static batches can be trusted where no test has run. Of those with other numbers in the last places
some may fall otherwise; where something is wrong, hardly any comes out the same."""
log = logging.getLogger(__name__)


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
        static: bool | None = None,
    ) -> None:
        """`static`: passes of shapes that depend on no value, which never wait for the device (default: not on a CPU).

        Raises TriageError for a model whose attention cannot be run over packed rows.
        """
        self.grammar = grammar or RecordGrammar.compile(segments)
        self.batch_size = batch_size
        self.counts = DecodeCounts()
        self.model = model.eval()
        self._segments = segments
        self._device = causal_model(model).get_input_embeddings().weight.device
        self._static = self._device.type != "cpu" if static is None else static
        self._tables = GrammarTables.of(self.grammar, self._device)
        self.chooser = Chooser(model, self._tables)
        self._prefix_ids = list(segments.prefix_ids(0))
        self._prefix: PrefixPass | None = None
        self._room = record_room(segments, self.grammar)
        self.opening = self._opening()
        """The tokens that every record begins with, and the ways on behind them."""
        self._unproven = static is None and self._static
        self._static_batches: dict[int, StaticBatch] = {}
        self._recorder = recorder_for(self._device)
        self._check_model()

    @torch.inference_mode()
    def decode(self, texts: Sequence[str]) -> list[DecodedRecord]:
        """Records of `texts`, in their order. The longest tickets come first, so that like stands by like."""
        room = self._segments.ticket_room(0)
        rows = []
        for place, text in enumerate(texts):
            ticket, cut = self._segments.ticket_ids(text, room)
            rows.append(WaitingRow(place, [*ticket, *self._segments.suffix_ids, *self.opening[0]], cut))
        rows.sort(key=lambda row: len(row.ids), reverse=True)
        results: dict[int, DecodedRecord] = {}
        if rows:
            with prefixed_attention_of(self.model):
                self._compute_prefix()
                # Where nothing is left to choose, there is no pass either.
                if self.opening[1] != FINISHED and self._trusts_static(rows):
                    self._in_static_batch(rows, results)
                else:
                    self._in_lanes(rows, results)
        self.counts.rows += len(rows)
        return [results[place] for place in range(len(texts))]

    def states(self, slots: int) -> RecordStates:
        """State of as many records."""
        return RecordStates(self.grammar, self._tables, slots, self._room, self._device, self._static or None)

    def advance(
        self, states: RecordStates, slots: torch.Tensor, ways: np.ndarray, prefixed: PromptPass | RecordPass
    ) -> None:
        """One forward pass, and the choice of each row behind it, among its `ways` on."""
        self.chooser.advance(states, slots, ways, last_hidden_states(self.model, prefixed))

    def store(self, slots: int) -> KeyValueStore:
        """Room for the keys and values of as many rows, behind the prefix."""
        return KeyValueStore(self._prefix, slots)

    def _in_lanes(self, rows: Sequence[WaitingRow], results: dict[int, DecodedRecord]) -> None:
        batches: list[Batch] = []

        @torch.inference_mode()
        def lane(own: Sequence[WaitingRow], stop: threading.Event) -> None:
            batch = Batch(self, own, results)
            batches.append(batch)
            batch.run(stop)

        run_lanes(lane, rows, lane_count(self.model, len(rows)))
        for batch in batches:
            self.counts.add(batch.counts)

    def _trusts_static(self, rows: Sequence[WaitingRow]) -> bool:
        """Whether to decode in static batches: looked at once, on devices on which no test has."""
        if self._unproven:
            self._unproven = False
            few = [replace(row, place=place) for place, row in enumerate(rows[-_COMPARED:])]
            found: dict[int, DecodedRecord] = {}
            expected: dict[int, DecodedRecord] = {}
            reason = ""
            try:
                StaticBatch(self, min(_SLOTS_OF_STATIC_BATCHES[0], self.batch_size), self._recorder).run(few, found)
            except RuntimeError as error:
                reason = f" ({error})"
                found.clear()
            Batch(self, few, expected).run(threading.Event())
            equal = sum(place in found and found[place].text == record.text for place, record in expected.items())
            if 2 * equal < len(few):
                self._static = False
                log.warning(
                    "Recorded passes write other records on this %s than plain ones, %d of %d are equal%s: plain ones are used.",
                    self._device.type,
                    equal,
                    len(few),
                    reason,
                )
        return self._static

    def _in_static_batch(self, rows: Sequence[WaitingRow], results: dict[int, DecodedRecord]) -> None:
        slots = min((size for size in _SLOTS_OF_STATIC_BATCHES if size >= len(rows)), default=self.batch_size)
        slots = min(slots, self.batch_size)
        batch = self._static_batches.pop(slots, None) or StaticBatch(self, slots, self._recorder)
        self.counts.add(batch.run(rows, results))
        # One that has failed is not kept: memory may be what it lacked.
        self._static_batches[slots] = batch

    def _compute_prefix(self) -> None:
        if self._prefix is None and self._prefix_ids:
            self._prefix = PrefixPass(self._prefix_ids, self._device)
            last_hidden_states(self.model, self._prefix)

    def _opening(self) -> tuple[list[int], int]:
        states, first = self.states(1), torch.zeros(1, dtype=torch.long, device=self._device)
        states.begin(first)
        (count,), (ways,) = states.look(first).tolist()
        return states.tokens[0, :count].tolist(), ways

    @torch.inference_mode()
    def _check_model(self) -> None:
        """Prove on a few tokens that packed rows give the model's own logits; other kinds of attention are refused."""
        causal = causal_model(self.model)
        prefix, rows = [1, 2, 3], [[4, 5, 6], [7]]
        whole = [[*prefix, *row, 8] for row in rows]
        own = torch.stack(
            [causal(input_ids=torch.tensor([row], device=self._device), use_cache=False).logits[0, -1] for row in whole]
        ).float()
        slots = range(len(rows))
        try:
            with prefixed_attention_of(self.model):
                first = PrefixPass(prefix, self._device)
                last_hidden_states(self.model, first)
                store = KeyValueStore(first, len(rows))
                last_hidden_states(self.model, PromptPass(store, slots, rows, self._device))
                tokens = torch.full((len(rows), 1), 8, device=self._device)
                states = last_hidden_states(
                    self.model, RecordPass(store, slots, [len(row) for row in rows], tokens, [0, 0], [1, 1])
                )
                ours = project_to_logits(self.model, states).float()
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


def record_room(segments: SegmentTokenizer, grammar: RecordGrammar) -> int:
    """Tokens that the longest record can have: text of which every byte is a token, behind an escape each."""
    text = sum(4 * span.limit + 1 for span in grammar.texts)
    return segments.record_reserve + text

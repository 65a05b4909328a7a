"""A batch of rows that are written side by side: who is done leaves, who waits takes the place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from triagekit.decoding.counts import DecodeCounts
from triagekit.decoding.passes import PromptPass, RecordPass
from triagekit.decoding.record_states import FINISHED
from triagekit.decoding.transfer import on_device

if TYPE_CHECKING:
    from triagekit.decoding.decoder import BatchedDecoder
    from triagekit.decoding.record import DecodedRecord

REFILL_SHARE = 0.25
"""New rows come in when this share of the slots is free: a prompt pass of a few rows would use the machine badly."""
_PROMPT_TOKENS = 8192
"""At most in one prompt pass, padding of its attention included (a longer ticket goes alone): what it takes while it runs
grows with them, and a machine is well used by far fewer."""
_COMPACT_BELOW = 0.5
"""Slots are given up when no rows wait and fewer than this share of them is busy: copying costs more before."""


@dataclass(frozen=True)
class WaitingRow:
    """A ticket on its way: its place among those asked for, its own tokens of the prompt, and how many were cut."""

    place: int
    ids: list[int]
    cut: int


def rows_of_a_prompt_pass(waiting: Sequence[WaitingRow]) -> int:
    """How many of those that wait go through the model together."""
    # The longest come first, so that the first one's length is that of all in attention.
    return min(len(waiting), max(1, _PROMPT_TOKENS // len(waiting[0].ids)))


class Batch:
    """One call of `decode`: slots that hold rows being written, and rows that wait for one."""

    def __init__(self, decoder: BatchedDecoder, rows: Sequence[WaitingRow], results: dict[int, DecodedRecord]) -> None:
        self._decoder = decoder
        self.counts = DecodeCounts()
        self._waiting = deque(rows)
        self._results = results
        self._slots = min(decoder.batch_size, len(rows))
        self._states = decoder.states(self._slots)
        self._store = decoder.store(self._slots)
        self._device = self._states.count.device
        # Of each slot, on the host: its row, whether there is one, tokens stored, tokens of the record that are stored, tokens
        # of the record, ways on.
        self._rows = np.full(self._slots, None, dtype=object)
        self._busy = np.zeros(self._slots, dtype=bool)
        self._length, self._sent, self._count, self._ways = np.zeros((4, self._slots), dtype=np.int64)

    def run(self, stop: threading.Event) -> None:
        """Until every row has its record, or there is no use in going on."""
        while not stop.is_set():
            busy = np.flatnonzero(self._busy)
            if self._waiting and self._slots - len(busy) >= REFILL_SHARE * self._slots:
                self._begin(np.flatnonzero(~self._busy))
                continue
            if not len(busy):
                return
            if not self._waiting and len(busy) < _COMPACT_BELOW * self._slots:
                self._compact(busy)
                continue
            self._go_on(busy)

    def _begin(self, free: np.ndarray) -> None:
        """Rows that wait take free slots; their prompts go through the model, and the first choice is made."""
        free = free[: rows_of_a_prompt_pass(self._waiting)]
        rows = [self._waiting.popleft() for _ in free]
        slots = on_device(free, self._device)
        self._states.begin(slots)
        self._look(free, slots)
        self._rows[free], self._busy[free] = rows, True
        self._length[free], self._sent[free] = [len(row.ids) for row in rows], self._count[free]
        if self._collect(free):
            return  # nothing to choose in any record of this schema
        prefixed = PromptPass(self._store, free, [row.ids for row in rows], self._device)
        self._advance(free, slots, prefixed)
        self.counts.prompt_tokens += prefixed.tokens
        self.counts.padded_prompt_tokens += prefixed.padded_tokens

    def _go_on(self, busy: np.ndarray) -> None:
        """What each row has emitted goes through the model, and its next choice is made."""
        length, sent, count = self._length[busy], self._sent[busy], self._count[busy]
        prefixed = RecordPass(self._store, busy, length, self._states.tokens, sent, count)
        self.counts.slot_steps += self._slots
        self.counts.busy_slot_steps += len(busy)
        self._length[busy], self._sent[busy] = length + count - sent, count
        self._advance(busy, on_device(busy, self._device), prefixed)

    def _advance(self, places: np.ndarray, slots: torch.Tensor, prefixed: PromptPass | RecordPass) -> None:
        self.counts.passes += 1
        self.counts.tokens += prefixed.tokens
        self._decoder.advance(self._states, slots, self._ways[places], prefixed)
        self._look(places, slots)
        self._collect(places)

    def _look(self, places: np.ndarray, slots: torch.Tensor) -> None:
        """The only look at values that every pass takes: a GPU is waited for here, and besides only to read finished records."""
        self._count[places], self._ways[places] = self._states.look(slots)

    def _collect(self, slots: np.ndarray) -> bool:
        """Take finished records out of their slots; whether all of these were finished."""
        done = slots[self._ways[slots] == FINISHED]
        if len(done):
            rows = self._rows[done]
            records = self._states.results(on_device(done, self._device), [row.cut for row in rows])
            self._results.update((row.place, record) for row, record in zip(rows, records, strict=True))
            self._rows[done], self._busy[done] = None, False
        return len(done) == len(slots)

    def _compact(self, busy: np.ndarray) -> None:
        index = on_device(busy, self._device)
        self._store.keep(index)
        self._states.keep(index)
        self._rows, self._busy = self._rows[busy], self._busy[busy]
        self._length, self._sent, self._count, self._ways = (
            values[busy] for values in (self._length, self._sent, self._count, self._ways)
        )
        self._slots = len(busy)

"""A batch on a GPU: the same work in every pass, given to the device without waiting for what came out of the one before.

The host looks at what was true some passes ago, which has long arrived. Until it has seen that a record is finished, its slot
is carried along; that is the price of never waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from triagekit.decoding.batch import REFILL_SHARE, rows_of_a_prompt_pass
from triagekit.decoding.counts import DecodeCounts
from triagekit.decoding.grammar import END
from triagekit.decoding.passes import PromptPass, StaticPass, StaticShape
from triagekit.decoding.prefixed_attention import last_hidden_states
from triagekit.decoding.recorded_step import RecordedStep, Recorder
from triagekit.decoding.transfer import HostCopy, on_device

if TYPE_CHECKING:
    from triagekit.decoding.batch import WaitingRow
    from triagekit.decoding.decoder import BatchedDecoder
    from triagekit.decoding.record import DecodedRecord

LOOK_BACK = 4
"""Passes between what the host looks at and what it gives the device."""
TOKENS_OF_A_SLOT = 2
"""In a pass, on average over the slots. Free text takes one, a choice one and the skeleton behind it."""
WIDTH = 16
"""The most tokens of one slot in a pass: more makes attention to own tokens wider, less cuts skeletons into several passes."""
VIEW = 128
"""The own tokens that attention looks at come in steps of this: each of them is recorded by itself."""


class StaticBatch:
    """Slots that hold rows being written, one after the other, over many calls. Not for several threads at once."""

    def __init__(self, decoder: BatchedDecoder, slots: int, recorder: Recorder | None) -> None:
        """With the decoder's prefix computed."""
        self._decoder = decoder
        self._slots = slots
        self._states = decoder.states(slots)
        self._store = decoder.store(slots)
        device = self._states.count.device
        self._device = device
        self._every = torch.arange(slots, device=device)
        self._length, self._sent = (torch.zeros(slots, dtype=torch.long, device=device) for _ in range(2))
        # Of all passes of a call: tokens, and slots at work.
        self._work = torch.zeros(2, dtype=torch.long, device=device)
        self._recorder = recorder
        self._steps: dict[int, RecordedStep] = {}
        # Of a call, on the host: each slot's row, and whether there is one, which stays until it is collected; the pass before
        # which it began; how many tokens it was known to hold; whether it was seen to be finished.
        self.counts = DecodeCounts()
        self._rows = np.full(slots, None, dtype=object)
        self._taken, self._finished = np.zeros((2, slots), dtype=bool)
        self._begun, self._known_length = np.zeros((2, slots), dtype=np.int64)
        self._looks: deque[tuple[int, HostCopy]] = deque()
        self._passes = 0

    def run(self, rows: Sequence[WaitingRow], results: dict[int, DecodedRecord]) -> DecodeCounts:
        """Fill `results` with the records of `rows`, by their places. After an error the batch is of no use any more."""
        self.counts, self._passes = DecodeCounts(), 0
        self._work.zero_()
        self._looks.clear()
        waiting = deque(rows)
        while True:
            busy = int((self._taken & ~self._finished).sum())
            if busy == 0 or (waiting and self._slots - busy >= REFILL_SHARE * self._slots):
                self._collect(results)
                if not waiting:
                    break
                self._begin(waiting)
                continue
            self._go_on()
            self._look()
        tokens, at_work = HostCopy(self._work).numbers()
        self.counts.tokens += int(tokens)
        self.counts.busy_slot_steps += int(at_work)
        return self.counts

    def _begin(self, waiting: deque[WaitingRow]) -> None:
        """Rows that wait take free slots; their prompts go through the model, and the first choice is made."""
        free = np.flatnonzero(~self._taken)[: rows_of_a_prompt_pass(waiting)]
        rows = [waiting.popleft() for _ in free]
        slots = on_device(free, self._device)
        self._states.begin(slots)
        self._reserve(max(len(row.ids) for row in rows))
        prefixed = PromptPass(self._store, free, [row.ids for row in rows], self._device)
        opening, ways = self._decoder.opening
        lengths = [len(row.ids) for row in rows]
        self._length[slots] = on_device(lengths, self._device)
        self._sent[slots] = len(opening)
        self._rows[free], self._taken[free] = rows, True
        self._begun[free], self._known_length[free] = self._passes, lengths
        self._decoder.advance(self._states, slots, np.full(len(rows), ways), prefixed)
        self.counts.passes += 1
        self.counts.tokens += prefixed.tokens
        self.counts.prompt_tokens += prefixed.tokens
        self.counts.padded_prompt_tokens += prefixed.padded_tokens

    def _go_on(self) -> None:
        """One pass of all slots."""
        unseen = (len(self._looks) + 1) * WIDTH
        longest = int(self._known_length[self._taken].max()) + unseen
        view = -(-longest // VIEW) * VIEW
        self._reserve(view)
        if view not in self._steps:
            self._steps[view] = RecordedStep(lambda: self._step(view), self._recorder)
        self._steps[view]()
        self._passes += 1
        self.counts.passes += 1
        self.counts.slot_steps += self._slots

    def _step(self, view: int) -> None:
        """What each slot has emitted goes through the model, and those that have sent all of it make their next choice."""
        states = self._states
        at_work = states.place != END
        shape = StaticShape(TOKENS_OF_A_SLOT * self._slots, WIDTH, view)
        count = torch.where(at_work, states.count, self._sent)
        prefixed = StaticPass(self._store, states.tokens, self._sent, count, self._length, shape)
        hidden = last_hidden_states(self._decoder.model, prefixed)
        self._length += prefixed.taken
        self._sent += prefixed.taken
        self._work += torch.stack([prefixed.taken.sum(), at_work.sum()])
        self._decoder.chooser.advance_static(states, self._every, at_work & (self._sent == count), hidden)

    def _reserve(self, length: int) -> None:
        """Room in the store. What was recorded knows the old one only."""
        capacity = self._store.capacity
        self._store.reserve(-(-length // VIEW) * VIEW)
        if self._store.capacity != capacity:
            self._steps.clear()

    def _look(self) -> None:
        """Ask how the slots stand now; see how they stood some passes ago."""
        now = torch.stack([self._states.place == END, self._length])
        self._looks.append((self._passes, HostCopy(now)))
        if len(self._looks) <= LOOK_BACK:
            return
        passes, copy = self._looks.popleft()
        finished, lengths = copy.numbers()
        seen = self._taken & (self._begun < passes)
        self._known_length = np.where(seen, lengths, self._known_length)
        self._finished |= seen & (finished != 0)

    def _collect(self, results: dict[int, DecodedRecord]) -> None:
        """Take the records that are known to be finished out of their slots."""
        done = np.flatnonzero(self._finished)
        if len(done):
            rows = self._rows[done]
            records = self._states.results(on_device(done, self._device), [row.cut for row in rows])
            results.update((row.place, record) for row, record in zip(rows, records, strict=True))
            self._rows[done], self._taken[done], self._finished[done] = None, False, False

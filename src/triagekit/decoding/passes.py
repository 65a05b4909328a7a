"""The kinds of forward pass that fill a key/value store: the prefix, prompts that begin, records that go on.

What they have to know of their rows, the host knows: none waits for a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from triagekit.decoding.batch_invariance import in_company
from triagekit.decoding.key_value_store import KeyValueStore
from triagekit.decoding.prefixed_attention import attend_to_keys, bias_of, causal_attention, seen_slots
from triagekit.decoding.transfer import Numbers, on_device


class PrefixPass:
    """The prefix by itself; `layers` holds its keys and values afterwards, `of_kernel` what a kernel has made of them."""

    def __init__(self, ids: Sequence[int], device: torch.device) -> None:
        self.ids = on_device(ids, device)
        self.positions = torch.arange(len(ids), device=device)
        self.last, self.rows = self.positions[-1:], 1
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.of_kernel: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See Pass."""
        self.layers[layer] = (key[None].contiguous(), value[None].contiguous())

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """See Pass."""
        self.store(layer, key, value)
        window = _in_force(window, len(self.ids))
        return causal_attention(query[None], key[None], value[None], scale, window)[0][0].transpose(0, 1)

    def last_tokens(self) -> PrefixEnd:
        """See Pass."""
        return PrefixEnd(self)


class PrefixEnd:
    """The prefix's last token, looking back at the whole of it."""

    def __init__(self, prefix: PrefixPass) -> None:
        self._prefix = prefix

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """See Attending. Nobody asks what follows the prefix alone, so a window is not looked at."""
        return attend_to_keys(query[None], *self._prefix.layers[layer], scale)[0][0].transpose(0, 1)


class _RowsPass(ABC):
    """New tokens of some rows, behind what their slots hold and behind the prefix.

    Some stand there twice (see `batch_invariance`): stored twice at one place, they are one.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    last: torch.Tensor
    rows: int
    tokens: int
    """New ones, each counted once."""
    _store: KeyValueStore
    _slots: torch.Tensor
    _places: torch.Tensor
    _longest: int
    """Own tokens of the longest row, the new ones among them."""

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See Pass."""
        self._store.write(layer, key, value, self._slots, self._places)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """See Pass."""
        self.store(layer, key, value)
        window = _in_force(window, self._store.prefix_length + self._longest)
        if self._store.kernel is not None:
            return self._store.attend(layer, query, self._slots, self._places, scale, window)
        own = self._own(layer, query, key, value, scale, window)
        return self._store.with_prefix(layer, query, self.positions, own, scale, window)

    def last_tokens(self) -> LastTokens:
        """See Pass."""
        return LastTokens(self._store, self.rows, self._slots[self.last], self._places[self.last], self._longest)

    @abstractmethod
    def _own(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention to the rows' own tokens: output [T, H, D] and log-sum-exp [T, H]."""


class PromptPass(_RowsPass):
    """Rows that begin: their own prompt tokens, of like length because they are padded to the longest in attention."""

    def __init__(
        self, store: KeyValueStore, slots: Numbers, rows: Sequence[Sequence[int]], device: torch.device
    ) -> None:
        """`rows[r]` are the own tokens of slot `slots[r]`."""
        lengths = np.array([len(row) for row in rows])
        self._store, self.rows, self.tokens, self._longest = store, len(rows), int(lengths.sum()), int(lengths.max())
        store.reserve(self._longest)
        order, of_row, columns, last = _packed(lengths)
        tokens = np.fromiter(chain.from_iterable(rows), np.int64, self.tokens)[order]
        self.ids, self._rows, self._places, self._slots = on_device(
            np.stack([tokens, of_row, columns, np.asarray(slots)[of_row]]), device
        )
        self.positions = self._places + store.prefix_length
        self.last = on_device(last, device)

    @property
    def padded_tokens(self) -> int:
        """That attention has gone over, once the pass is done: a kernel's are the rows' own, torch pads them to one length."""
        return self.tokens if self._store.kernel is not None else self.rows * self._longest

    def _own(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, sums = causal_attention(self._spread(query), self._spread(key), self._spread(value), scale, window)
        return output.transpose(1, 2)[self._rows, self._places], sums.transpose(1, 2)[self._rows, self._places]

    def _spread(self, packed: torch.Tensor) -> torch.Tensor:
        """[heads, T, D] to [rows, heads, longest, D], zeros behind each row."""
        spread = packed.new_zeros(self.rows, self._longest, packed.shape[0], packed.shape[2])
        spread[self._rows, self._places] = packed.transpose(0, 1)
        return spread.transpose(1, 2)


class _EmittedPass(_RowsPass):
    """Rows that go on, of every slot at most `_width` tokens; `_columns` tells the place of each among its slot's new ones."""

    _columns: torch.Tensor
    _width: int

    def __init__(self) -> None:
        self._biases: dict[tuple[int | None, int], torch.Tensor] = {}

    def _own(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._store.own[layer]
        queries = query.new_zeros(self._store.slots, self._width, query.shape[0], query.shape[2])
        queries[self._slots, self._columns] = query.transpose(0, 1)
        bias = self._bias(window, query.shape[0] // key.shape[0], query.dtype)
        output, sums = attend_to_keys(
            queries.transpose(1, 2), keys[:, :, : self._longest], values[:, :, : self._longest], scale, bias
        )
        return output[self._slots, :, self._columns], sums[self._slots, :, self._columns]

    def _bias(self, window: int | None, shared: int, dtype: torch.dtype) -> torch.Tensor:
        """The same for all layers with this window."""
        if (window, shared) not in self._biases:
            device = self._places.device
            # A slot that rests, and a column without a token, see the first place: its result is not looked at.
            query_places = torch.zeros(self._store.slots, self._width, dtype=torch.long, device=device)
            query_places[self._slots, self._columns] = self._places
            seen = seen_slots(query_places, torch.arange(self._longest, device=device), window)
            self._biases[window, shared] = bias_of(seen, shared, dtype)
        return self._biases[window, shared]


class RecordPass(_EmittedPass):
    """Rows that go on: what each has emitted since its last pass, behind what its slot holds."""

    def __init__(
        self,
        store: KeyValueStore,
        slots: Numbers,
        lengths: Numbers,
        tokens: torch.Tensor,
        sent: Numbers,
        count: Numbers,
    ) -> None:
        """For the rows in `slots`: `lengths[r]` tokens are stored; those of `tokens[slots[r]]` from `sent[r]` to `count[r]` are
        new, at least one."""
        super().__init__()
        device, stored, begin = tokens.device, np.asarray(lengths), np.asarray(sent)
        new = np.asarray(count) - begin
        self._store, self.rows, self.tokens = store, len(slots), int(new.sum())
        self._width, self._longest = int(new.max()), int((stored + new).max())
        _, of_row, columns, last = _packed(new)
        self._slots, places, self._columns, self._places = on_device(
            np.stack([np.asarray(slots)[of_row], begin[of_row] + columns, columns, stored[of_row] + columns]), device
        )
        self.ids = tokens[self._slots, places]
        self.positions = self._places + store.prefix_length
        self.last = on_device(last, device)
        store.reserve(self._longest)


class StaticPass(_EmittedPass):
    """The same of all slots, by tensors alone and of shapes that depend on no value: a GPU can be given many such passes
    before the first is done, and a CUDA graph can repeat one.

    There are `budget` tokens in it. Slots that have emitted more than `width`, or that come when nothing is left, send the rest
    in passes to come; places that are left over hold the last token once more.
    """

    def __init__(
        self,
        store: KeyValueStore,
        tokens: torch.Tensor,
        sent: torch.Tensor,
        count: torch.Tensor,
        lengths: torch.Tensor,
        shape: StaticShape,
    ) -> None:
        """Of slot s, those of `tokens[s]` from `sent[s]` to `count[s]` are new, maybe none; `lengths[s]` are stored."""
        super().__init__()
        self._store, self.rows, self.tokens = store, store.slots, shape.budget
        self._width, self._longest = shape.width, shape.longest
        new = (count - sent).clamp(max=shape.width)
        before = new.cumsum(0) - new
        self.taken = torch.minimum(new, (shape.budget - before).clamp(min=0))
        """[slots]: tokens of each slot in this pass."""
        ends = self.taken.cumsum(0)
        packed = torch.minimum(torch.arange(shape.budget, device=tokens.device), (ends[-1] - 1).clamp(min=0))
        self._slots = torch.searchsorted(ends, packed, right=True).clamp(max=store.slots - 1)
        self._columns = (packed - (ends - self.taken)[self._slots]).clamp(min=0)
        self._places = (lengths[self._slots] + self._columns).clamp(max=shape.longest - 1)
        self.ids = tokens[self._slots, sent[self._slots] + self._columns]
        self.positions = self._places + store.prefix_length
        self.last = (ends - 1).clamp(min=0)


class StaticShape(NamedTuple):
    """Of a StaticPass: its tokens, the most of one slot, and the most that a slot holds, the new ones among them."""

    budget: int
    width: int
    longest: int


class LastTokens:
    """One token a row, which is stored already, looking back at the prefix and at its own row."""

    def __init__(
        self, store: KeyValueStore, rows: int, slots: torch.Tensor, places: torch.Tensor, longest: int
    ) -> None:
        """`places` are those among the slots' own tokens, all less than `longest`; some come again behind `rows`."""
        self._store, self._slots, self._places, self._longest = store, slots, places, longest
        self._every = rows == len(slots) == store.slots

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """See Attending. New keys and values are those that are stored."""
        window = _in_force(window, self._store.prefix_length + self._longest)
        if self._store.kernel is not None:
            return self._store.attend(layer, query, self._slots, self._places, scale, window)
        keys, values = (part[:, :, : self._longest] for part in self._store.own[layer])
        if not self._every:
            keys, values = keys.index_select(0, self._slots), values.index_select(0, self._slots)
        places = torch.arange(self._longest, device=query.device)
        seen = seen_slots(self._places[:, None], places, window)
        bias = bias_of(seen, query.shape[0] // key.shape[0], query.dtype)
        output, sums = attend_to_keys(query.transpose(0, 1)[:, :, None], keys, values, scale, bias)
        positions = self._places + self._store.prefix_length
        return self._store.with_prefix(layer, query, positions, (output[:, :, 0], sums[:, :, 0]), scale, window)


def _packed(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of these lengths behind one another, in company: of each packed token its number, its row and its column there;
    and each row's last token, in company too."""
    ends = lengths.cumsum()
    order = in_company(int(ends[-1]))
    of_row = np.repeat(np.arange(len(lengths)), lengths)[order]
    return order, of_row, order - (ends - lengths)[of_row], (ends - 1)[in_company(len(lengths))]


def _in_force(window: int | None, longest: int) -> int | None:
    """The sliding window, where a sequence of `longest` tokens is long enough to feel it."""
    return window if window is not None and window < longest else None

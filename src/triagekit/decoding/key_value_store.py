"""Keys and values of the prefix, once, and of each slot's own tokens; and the three kinds of pass that fill them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from triagekit.decoding.batch_invariance import in_company
from triagekit.decoding.kernels.packed_attention import PackedAttention
from triagekit.decoding.prefixed_attention import (
    attend_to_keys,
    attend_to_window,
    bias_of,
    causal_attention,
    merged,
    seen_slots,
)

_GROWTH = 64


class KeyValueStore:
    """Per layer the prefix's keys and values [1, K, P, D], and those of the slots' own tokens [slots, K, capacity, D].

    Memory a slot is that of its own tokens; it grows in steps of 64 tokens. Where a kernel attends to own tokens
    (`kernel`, known once something is stored), their keys are [slots, K, D, capacity].
    """

    def __init__(self, prefix: PrefixPass | None, slots: int) -> None:
        """`prefix` after its forward pass; None where there is no prefix."""
        self.prefix = prefix.layers if prefix is not None else {}
        self.prefix_length = len(prefix.ids) if prefix is not None else 0
        self.slots = slots
        self.capacity = 0
        self.own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.kernel: PackedAttention | None = None
        self._of_kernel = prefix.of_kernel if prefix is not None else {}

    def reserve(self, length: int) -> None:
        """Make room for `length` own tokens a slot."""
        if length <= self.capacity:
            return
        self.capacity = -(-length // _GROWTH) * _GROWTH
        for layer, pair in self.own.items():
            self.own[layer] = (self._grown(pair[0], 2 if self.kernel is None else 3), self._grown(pair[1], 2))

    def keep(self, rows: torch.Tensor) -> None:
        """Drop every slot but these, in this order."""
        self.slots = len(rows)
        for layer, (keys, values) in self.own.items():
            self.own[layer] = (keys.index_select(0, rows), values.index_select(0, rows))

    def write(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor, places: torch.Tensor
    ) -> None:
        """Store new keys and values [K, T, D] at their slots and places."""
        if not self.own:
            self.kernel = PackedAttention.for_keys(key, value)
        if layer not in self.own:
            # Zeros: a masked place has weight 0, and 0 times what lies in fresh memory may be NaN.
            room = (self.slots, key.shape[0], self.capacity)
            keys, values = key.new_zeros(*room, key.shape[2]), value.new_zeros(*room, value.shape[2])
            self.own[layer] = (keys if self.kernel is None else keys.view(*room[:2], key.shape[2], -1), values)
        keys, values = self.own[layer]
        if self.kernel is not None:
            self.kernel.keep(keys, values, key, value, slots, places)
            return
        keys[slots, :, places] = key.transpose(0, 1)
        values[slots, :, places] = value.transpose(0, 1)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        slots: torch.Tensor,
        places: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of `query` [H, T, D] to its slots up to its places [T], and to the prefix → [T, H, D], by the kernel."""
        assert self.kernel is not None
        if self.prefix_length and layer not in self._of_kernel:
            keys, values = self.prefix[layer]
            self._of_kernel[layer] = self.kernel.prefix(keys[0], values[0])
        prefix = self._of_kernel.get(layer)
        return self.kernel.attend(query, prefix, self.prefix_length, self.own[layer], slots, places, scale, window)

    def with_prefix(
        self,
        layer: int,
        query: torch.Tensor,
        positions: torch.Tensor,
        own: tuple[torch.Tensor, torch.Tensor],
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Merge attention to own tokens (output [T, H, D], log-sum-exp [T, H]) with that of `query` [H, T, D] to the prefix."""
        if not self.prefix_length:
            return own[0]
        keys, values = self.prefix[layer]
        if window is None:
            output, sums = attend_to_keys(query[None], keys, values, scale)
        else:
            seen = seen_slots(positions[None], torch.arange(self.prefix_length, device=query.device), window)
            output, sums = attend_to_window(query[None], keys, values, scale, seen)
        return merged(own, (output[0].transpose(0, 1), sums[0].transpose(0, 1)))

    def _grown(self, source: torch.Tensor, dimension: int) -> torch.Tensor:
        """With room for `capacity` tokens along `dimension`."""
        shape = list(source.shape)
        shape[dimension] = self.capacity
        result = source.new_zeros(shape)
        result.narrow(dimension, 0, source.shape[dimension]).copy_(source)
        return result


class PrefixPass:
    """The prefix by itself; `layers` holds its keys and values afterwards, `of_kernel` what a kernel has made of them."""

    def __init__(self, ids: Sequence[int], device: torch.device) -> None:
        self.ids = torch.tensor(list(ids), device=device)
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


class PromptPass:
    """Rows that begin: their own prompt tokens, of like length because they are padded to the longest in attention.

    This pass and the next hold some tokens twice (see `batch_invariance`): stored twice at one place, they are one.
    """

    def __init__(self, store: KeyValueStore, slots: torch.Tensor, rows: Sequence[Sequence[int]]) -> None:
        """`rows[r]` are the own tokens of slot `slots[r]`."""
        device = slots.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        self._store, self.rows, self.tokens, self._width = store, len(rows), sum(map(len, rows)), max(map(len, rows))
        store.reserve(self._width)
        order = in_company(self.tokens, device)
        self.ids = torch.tensor(list(chain.from_iterable(rows)), device=device)[order]
        self._rows = torch.repeat_interleave(torch.arange(self.rows, device=device), lengths, output_size=self.tokens)[
            order
        ]
        ends = lengths.cumsum(0)
        self._places = order - (ends - lengths)[self._rows]
        self._slots = slots[self._rows]
        self.positions = self._places + store.prefix_length
        self.last = (ends - 1)[in_company(self.rows, device)]
        self.padded_tokens = self.rows * self._width

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See Pass."""
        self._store.write(layer, key, value, self._slots, self._places)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """See Pass."""
        self.store(layer, key, value)
        window = _in_force(window, self._store.prefix_length + self._width)
        if self._store.kernel is not None:
            return self._store.attend(layer, query, self._slots, self._places, scale, window)
        output, sums = causal_attention(self._spread(query), self._spread(key), self._spread(value), scale, window)
        own = (output.transpose(1, 2)[self._rows, self._places], sums.transpose(1, 2)[self._rows, self._places])
        return self._store.with_prefix(layer, query, self.positions, own, scale, window)

    def last_tokens(self) -> LastTokens:
        """See Pass."""
        return LastTokens(self._store, self.rows, self._slots[self.last], self._places[self.last], self._width)

    def _spread(self, packed: torch.Tensor) -> torch.Tensor:
        """[heads, T, D] to [rows, heads, width, D], zeros behind each row."""
        spread = packed.new_zeros(self.rows, self._width, packed.shape[0], packed.shape[2])
        spread[self._rows, self._places] = packed.transpose(0, 1)
        return spread.transpose(1, 2)


class RecordPass:
    """Rows that go on: what each has emitted since its last pass, behind what its slot holds."""

    def __init__(
        self,
        store: KeyValueStore,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        tokens: torch.Tensor,
        sent: torch.Tensor,
        count: torch.Tensor,
    ) -> None:
        """For the rows in `slots`: `lengths` tokens are stored; `tokens[r, sent[r]:count[r]]` are new, at least one."""
        device = slots.device
        new = count - sent
        self._store, self.rows = store, len(slots)
        # The only look at values of a pass: on a GPU it waits for the choices before it.
        self.tokens, self._width, self._longest = torch.stack([new.sum(), new.max(), (lengths + new).max()]).tolist()
        rows = torch.repeat_interleave(torch.arange(self.rows, device=device), new, output_size=self.tokens)
        order = in_company(self.tokens, device)
        rows, ends = rows[order], new.cumsum(0)
        self._columns = order - (ends - new)[rows]
        self.ids = tokens[rows, sent[rows] + self._columns]
        self._places = lengths[rows] + self._columns
        self._slots = slots[rows]
        self.positions = self._places + store.prefix_length
        self.last = (ends - 1)[in_company(self.rows, device)]
        store.reserve(self._longest)
        self._biases: dict[tuple[int | None, int], torch.Tensor] = {}

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
        keys, values = self._store.own[layer]
        queries = query.new_zeros(self._store.slots, self._width, query.shape[0], query.shape[2])
        queries[self._slots, self._columns] = query.transpose(0, 1)
        bias = self._bias(window, query.shape[0] // key.shape[0], query.dtype)
        output, sums = attend_to_keys(
            queries.transpose(1, 2), keys[:, :, : self._longest], values[:, :, : self._longest], scale, bias
        )
        own = (output[self._slots, :, self._columns], sums[self._slots, :, self._columns])
        return self._store.with_prefix(layer, query, self.positions, own, scale, window)

    def last_tokens(self) -> LastTokens:
        """See Pass."""
        return LastTokens(self._store, self.rows, self._slots[self.last], self._places[self.last], self._longest)

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


def _in_force(window: int | None, longest: int) -> int | None:
    """The sliding window, where a sequence of `longest` tokens is long enough to feel it."""
    return window if window is not None and window < longest else None

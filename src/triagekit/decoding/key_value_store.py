"""Keys and values of the prefix, once, and of each slot's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from triagekit.decoding.kernels.packed_attention import PackedAttention
from triagekit.decoding.prefixed_attention import attend_to_keys, attend_to_window, merged, seen_slots

if TYPE_CHECKING:
    from triagekit.decoding.passes import PrefixPass

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

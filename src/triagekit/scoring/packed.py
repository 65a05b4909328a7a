"""A batch of rows of unequal length as one packed sequence: no padding goes through the model's linear layers.

The tokens that are new in this forward pass stand one row behind the other in a sequence of batch size 1. Only attention
knows of rows: an attention function registered with transformers spreads the queries over rows and lets each see the
keys of its own row, which lie without holes in a cache of shape [rows, capacity, heads, dimension]. The slot of a key is
its position, so rows need not be at the same length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model, hidden_states

if TYPE_CHECKING:
    from torch import nn

ATTENTION = "triagekit_packed"
_GROWTH = 64


@dataclass(frozen=True)
class PackedLayout:
    """Where each of the T packed tokens belongs: batch row, cache slot, and column among the row's new tokens."""

    rows: torch.Tensor
    slots: torch.Tensor
    columns: torch.Tensor
    last: torch.Tensor
    batch: int
    width: int
    longest: int
    query_slots: torch.Tensor
    aligned: bool

    @staticmethod
    def of(lengths: Sequence[int], new: Sequence[int], device: torch.device) -> PackedLayout:
        """Layout of `new[r]` tokens behind `lengths[r]` cached ones, for every row r (0 new tokens: the row rests)."""
        rows = torch.tensor(list(chain.from_iterable([row] * count for row, count in enumerate(new))))
        columns = torch.tensor(list(chain.from_iterable(range(count) for count in new)))
        slots = columns + torch.tensor(lengths)[rows]
        width = max(new)
        query_slots = torch.zeros(len(new), width, dtype=torch.long)
        query_slots[rows, columns] = slots
        return PackedLayout(
            rows=rows.to(device),
            slots=slots.to(device),
            columns=columns.to(device),
            last=(torch.tensor(new).cumsum(0) - 1)[torch.tensor(new) > 0].to(device),
            batch=len(new),
            width=width,
            longest=int(slots.max()) + 1,
            query_slots=query_slots.to(device),
            aligned=width == 1 and all(new),
        )

    def mask(self, window: int | None) -> torch.Tensor:
        """Which cache slots each query sees, boolean [batch, 1, width, longest]. A resting query sees slot 0."""
        keys = torch.arange(self.longest, device=self.query_slots.device)
        queries = self.query_slots[:, None, :, None]
        seen = keys <= queries
        return seen if window is None else seen & (keys > queries - window)


class _PackedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, [rows, capacity, heads, dimension].

    Zeros where nothing is written yet: a masked slot has weight 0, and 0 times what lies in fresh memory may be NaN.
    """

    def __init__(self, owner: PackedCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, capacity = self._owner.batch, self._owner.capacity
        self.keys = key_states.new_zeros(rows, capacity, key_states.shape[1], key_states.shape[3])
        self.values = value_states.new_zeros(rows, capacity, value_states.shape[1], value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values [1, heads, T, dimension]; returns those of all rows [rows, heads, longest, …]."""
        layout = self._owner.layout
        assert layout is not None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = _filled(self.keys), _filled(self.values)
        keys[layout.rows, layout.slots] = key_states[0].transpose(0, 1)
        values[layout.rows, layout.slots] = value_states[0].transpose(0, 1)
        return keys[:, : layout.longest].transpose(1, 2), values[:, : layout.longest].transpose(1, 2)

    def replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take over tensors of the layer's own shape."""
        self.keys, self.values, self.is_initialized = keys, values, True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._owner.layout.longest if self.is_initialized and self._owner.layout else 0

    def get_max_length(self) -> int:
        return -1


class PackedCache(Cache):
    """Keys and values of a batch whose rows have their own lengths."""

    def __init__(self, layers: int, batch: int, capacity: int) -> None:
        self.batch = batch
        self.capacity = capacity
        self.layout: PackedLayout | None = None
        self.packed = [_PackedLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.packed))

    @staticmethod
    def behind(prefix: PackedCache, length: int, batch: int, capacity: int) -> PackedCache:
        """A cache whose rows all begin with the first `length` slots of the one row of `prefix`."""
        cache = PackedCache(len(prefix.packed), batch, max(capacity, length))
        for layer, source in zip(cache.packed, prefix.packed, strict=True):
            layer.replace(
                _spread(_filled(source.keys), length, batch, cache.capacity),
                _spread(_filled(source.values), length, batch, cache.capacity),
            )
        return cache

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` slots a row; grows in steps, so that copying stays rare."""
        if capacity <= self.capacity:
            return
        self.capacity = capacity + _GROWTH
        for layer in self.packed:
            if layer.is_initialized:
                layer.replace(_grown(_filled(layer.keys), self.capacity), _grown(_filled(layer.values), self.capacity))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but these, in this order."""
        self.batch = len(rows)
        for layer in self.packed:
            keys, values = _filled(layer.keys), _filled(layer.values)
            index = torch.tensor(rows, device=keys.device)
            layer.replace(keys.index_select(0, index), values.index_select(0, index))


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed: PackedLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of packed queries [1, heads, T, dimension] over the rows' keys [rows, heads, longest, dimension]."""
    if packed is None or softcap is not None or s_aux is not None:
        raise TriageError(f"{type(module).__name__} asks for a kind of attention that the batched decoder lacks.")
    if packed.aligned:
        queries = query.permute(2, 1, 0, 3)
    else:
        queries = query.new_zeros(packed.batch, packed.width, query.shape[1], query.shape[3])
        queries[packed.rows, packed.columns] = query[0].transpose(0, 1)
        queries = queries.transpose(1, 2)
    mask = packed.mask(sliding_window)
    if key.device.type == "cpu":
        # Grouped heads as they are: transformers copies the keys for every query head, which costs more than attending.
        output = torch.nn.functional.scaled_dot_product_attention(
            queries, key, value, attn_mask=mask, scale=scaling, enable_gqa=queries.shape[1] != key.shape[1]
        ).transpose(1, 2)
    else:
        output, _ = sdpa_attention_forward(module, queries, key, value, mask, scaling=scaling)
    return output[packed.rows, packed.columns].unsqueeze(0), None


@contextmanager
def packed_attention_of(model: nn.Module) -> Iterator[None]:
    """Let `model` attend by packed rows inside the block, and as before after it."""
    AttentionInterface.register(ATTENTION, packed_attention)
    causal = causal_model(model)
    before = causal.config._attn_implementation
    causal.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


def packed_hidden_states(
    model: nn.Module, tokens: Sequence[Sequence[int]], lengths: Sequence[int], cache: PackedCache
) -> torch.Tensor:
    """Hidden state [rows with new tokens, H] behind the last of each row's new tokens; the cache takes them in.

    `tokens[r]` are the new tokens of row r, behind `lengths[r]` cached ones. To be called inside `packed_attention_of`.
    """
    device = causal_model(model).get_input_embeddings().weight.device
    layout = PackedLayout.of(lengths, [len(row) for row in tokens], device)
    cache.reserve(layout.longest)
    cache.layout = layout
    ids = torch.tensor([list(chain.from_iterable(tokens))], device=device)
    states, _ = hidden_states(
        model, ids, position_ids=layout.slots[None], past_key_values=cache, use_cache=True, packed=layout
    )
    return states[0, layout.last]


def _filled(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor


def _spread(source: torch.Tensor, length: int, batch: int, capacity: int) -> torch.Tensor:
    result = source.new_zeros(batch, capacity, *source.shape[2:])
    result[:, :length] = source[0, :length]
    return result


def _grown(source: torch.Tensor, capacity: int) -> torch.Tensor:
    result = source.new_zeros(source.shape[0], capacity, *source.shape[2:])
    result[:, : source.shape[1]] = source
    return result

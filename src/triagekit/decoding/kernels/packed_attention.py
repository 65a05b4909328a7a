"""Attention of packed tokens to their prefix and their rows, as one loop without padding: packed_attention.cpp."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from triagekit.decoding.kernels.build import library

_LANES = 16
"""Numbers in one of its vectors."""
_BLOCK = 32
"""Keys that it scores at once."""
_TOKENS_OF_A_THREAD = 64
"""At least: less is done before another thread is awake."""

Pair = tuple[torch.Tensor, torch.Tensor]


class PackedAttention:
    """Keys and values of slots, keys [slots, K, D, capacity] with the tokens innermost, values [slots, K, capacity, D].

    `capacity` is a multiple of 32. All tensors float32 on the CPU.
    """

    @classmethod
    def for_keys(cls, key: torch.Tensor, value: torch.Tensor) -> PackedAttention | None:
        """The kernel, where it can take keys and values [K, T, D] like these; None elsewhere."""
        fits = key.device.type == "cpu" and key.dtype == value.dtype == torch.float32
        if not fits or key.shape[2] % _LANES or key.shape[2] != value.shape[2]:
            return None
        found = library("packed_attention")
        return cls(found) if found is not None else None

    def __init__(self, kernels: ctypes.CDLL) -> None:
        pointer: Any = ctypes.c_void_p
        number: Any = ctypes.c_int64
        self._keep = kernels.keep_packed
        self._keep.argtypes = [pointer, number, number] * 2 + [pointer] * 4 + [number] * 4
        self._keep.restype = None
        self._attend = kernels.attend_packed
        self._attend.argtypes = (
            [pointer, number, number] + [pointer, pointer, number, number] + [pointer] * 5 + [number] * 6
        ) + [ctypes.c_float, number]
        self._attend.restype = None

    def prefix(self, keys: torch.Tensor, values: torch.Tensor) -> Pair:
        """Keys and values [K, P, D] of a prefix, as `attend` reads them: keys [K, D, P and room], values [K, P, D]."""
        room = -(-keys.shape[1] // _BLOCK) * _BLOCK
        turned = keys.new_zeros(keys.shape[0], keys.shape[2], room)
        turned[:, :, : keys.shape[1]] = keys.transpose(1, 2)
        padded = values.new_zeros(values.shape[0], room, values.shape[2])
        padded[:, : values.shape[1]] = values
        return turned, padded

    def keep(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        slots: torch.Tensor,
        places: torch.Tensor,
    ) -> None:
        """Store new keys and values [K, T, D] at their slots and places [T]."""
        key, value = _innermost(key), _innermost(value)
        key_heads, tokens, dimension = key.shape
        source = (*_strided(key), *_strided(value))
        target = (keys.data_ptr(), values.data_ptr(), slots.data_ptr(), places.data_ptr())
        self._keep(*source, *target, tokens, key_heads, dimension, keys.shape[3])

    def attend(
        self,
        query: torch.Tensor,
        prefix: Pair | None,
        prefix_length: int,
        own: Pair,
        slots: torch.Tensor,
        places: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attention of `query` [H, T, D] to the prefix, and to its slots up to its places [T] → [T, H, D]."""
        query = _innermost(query)
        heads, tokens, dimension = query.shape
        output = query.new_empty(tokens, heads, dimension)
        before: tuple[int | None, ...] = (None, None, 0, 0)
        if prefix is not None:
            before = (prefix[0].data_ptr(), prefix[1].data_ptr(), prefix_length, prefix[0].shape[2])
        keys, values = own
        rows = (keys.data_ptr(), values.data_ptr(), slots.data_ptr(), places.data_ptr(), output.data_ptr())
        shape = (heads, keys.shape[1], dimension, keys.shape[3])

        def attend(begin: int, end: int) -> None:
            self._attend(*_strided(query), *before, *rows, begin, end, *shape, scale, window or 0)

        pieces = min(torch.get_num_threads(), tokens // _TOKENS_OF_A_THREAD)
        if pieces <= 1:
            attend(0, tokens)
            return output
        bounds = [tokens * piece // pieces for piece in range(pieces + 1)]
        with ThreadPoolExecutor(pieces) as pool:
            list(pool.map(attend, bounds[:-1], bounds[1:]))
        return output


def _innermost(tensor: torch.Tensor) -> torch.Tensor:
    """With the numbers of one token's head side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _strided(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Where [heads, T, …] lies, and how far tokens and heads are apart."""
    return tensor.data_ptr(), tensor.stride(1), tensor.stride(0)

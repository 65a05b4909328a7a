"""The choice of a token of free text, in one walk over the vocabulary: text_choice.cpp."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from triagekit.decoding.kernels.build import library


class TextChoice:
    """Chooses among the tokens that fit, by their costs [states, vocabulary] int32."""

    @classmethod
    def for_costs(cls, costs: torch.Tensor | None) -> TextChoice | None:
        """The kernel, where it can read the costs; None elsewhere."""
        if costs is None or costs.device.type != "cpu" or costs.dtype != torch.int32:
            return None
        found = library("text_choice")
        return cls(found, costs.contiguous()) if found is not None else None

    def __init__(self, kernels: ctypes.CDLL, costs: torch.Tensor) -> None:
        pointer: Any = ctypes.c_void_p
        number: Any = ctypes.c_int64
        self._costs = costs
        self._choose = kernels.choose_text
        self._choose.argtypes = [pointer, number] * 2 + [pointer] * 4 + [number] + [pointer] * 2
        self._choose.restype = None

    def choose(
        self,
        logits: torch.Tensor,
        state: torch.Tensor,
        left: torch.Tensor,
        terminator: torch.Tensor,
        may_end: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token and natural logarithm of its share, [rows] each, by float32 logits [rows, at least the vocabulary].

        Of each row: the state of its text (int64), the room `left` (int32), the `terminator` (int64), and whether the text
        `may_end` (boolean).
        """
        logits = logits.contiguous()
        rows = logits.shape[0]
        token, share = torch.empty(rows, dtype=torch.long), torch.empty(rows)
        state, left, terminator, may_end = (part.contiguous() for part in (state, left, terminator, may_end))
        given = (logits.data_ptr(), logits.shape[1], self._costs.data_ptr(), self._costs.shape[1])
        of_rows = (state.data_ptr(), left.data_ptr(), terminator.data_ptr(), may_end.data_ptr())
        self._choose(*given, *of_rows, rows, token.data_ptr(), share.data_ptr())
        return token, share

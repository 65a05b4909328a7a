"""Attention that cannot be taken apart (sliding windows, capped scores), by PyTorch's FlexAttention where a GPU has it.

It skips the blocks of the packed sequence in which nobody sees anybody: work and memory grow with the rows, not with their
square. J. Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention Kernels", arXiv 2412.05496.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from triagekit.modeling.shared_prefix.layout import SharedPrefixLayout

_FIRST_CAPABILITY = (8, 0)
"""Ampere: what its compiler supports whole."""
log = logging.getLogger(__name__)


class FlexAttention:
    """One compiled kernel for every layout. It is compiled when it is first called, by Triton and a C compiler."""

    def __init__(self, attention: Callable[..., Any]) -> None:
        """`attention` as torch's `flex_attention`."""
        self._attention = attention

    @classmethod
    def on(cls, device: torch.device) -> FlexAttention | None:
        """On this device; None where it cannot be compiled."""
        return _compiled() if device.type == "cuda" else None

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: SharedPrefixLayout,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Query [H, T, D], key and value [K, T, D]; K divides H → [H, T, D]."""
        result: torch.Tensor = self._attention(
            query[None],
            key[None],
            value[None],
            score_mod=None if softcap is None else _capped_at(softcap),
            block_mask=layout.block_mask(window),
            scale=scale,
            enable_gqa=query.shape[0] != key.shape[0],
        )[0]
        return result


@cache
def _capped_at(softcap: float) -> Callable[..., torch.Tensor]:
    def capped(score: torch.Tensor, row: Any, head: Any, query_place: Any, key_place: Any) -> torch.Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


@cache
def _compiled() -> FlexAttention | None:
    """Compiled and tried on a few tokens, forward and backward."""
    from torch.nn.attention.flex_attention import flex_attention

    device = torch.device("cuda")
    if torch.cuda.get_device_capability(device) < _FIRST_CAPABILITY:
        return None
    flex = FlexAttention(torch.compile(flex_attention, dynamic=True))
    layout = SharedPrefixLayout.of([(5, [3, 2])]).to(device)
    states = torch.randn(2, len(layout.positions), 64, device=device, requires_grad=True)
    try:
        torch.autograd.grad(flex.attend(states, states, states, layout, 0.125, 4, 30.0).sum(), states)
    except Exception as error:  # whatever a compiler can raise: there is another way to the same numbers
        log.warning("FlexAttention cannot be compiled here, so masks over all pairs are used: %s", str(error)[:500])
        return None
    return flex

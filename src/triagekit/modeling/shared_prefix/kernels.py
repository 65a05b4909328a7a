"""PyTorch's fused attention, forward and backward, with the log-sum-exp that lets partial results be merged.

`scaled_dot_product_attention` hides the log-sum-exp, so the operators behind it are called. All tensors are
[batch, heads, tokens, dimension]; the log-sum-exp is float32 [batch, heads, queries].
"""

from __future__ import annotations

from typing import Protocol

import torch

aten = torch.ops.aten


class Kernel(Protocol):
    """One implementation."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, log-sum-exp of the scaled scores)."""

    def backward(
        self,
        gradient: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of query, key and value. `output` and `log_sum_exp` may be those over more keys than these: the
        probabilities that the backward pass computes anew are then the right ones, and this is the keys' share."""


class FlashOnCpu:
    """The flash kernel that PyTorch uses on CPUs."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, log_sum_exp = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return output, log_sum_exp

    def backward(
        self,
        gradient: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query_gradient, key_gradient, value_gradient = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, log_sum_exp, 0.0, causal, scale=scale
        )
        return query_gradient, key_gradient, value_gradient


class EfficientOnCuda:
    """The memory-efficient kernel: every number type, every card since Maxwell."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, log_sum_exp, _, _ = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
        # The kernel rounds the number of queries up.
        return output, log_sum_exp[..., : query.shape[2]]

    def backward(
        self,
        gradient: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        causal: bool,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        missing = -log_sum_exp.shape[-1] % _QUERIES_ROUNDED_TO
        rounded = torch.nn.functional.pad(log_sum_exp, (0, missing), value=float("inf"))
        # Without dropout the random state is not looked at.
        none = torch.zeros((), dtype=torch.int64, device=query.device)
        query_gradient, key_gradient, value_gradient, _ = aten._scaled_dot_product_efficient_attention_backward(
            gradient,
            query,
            key,
            value,
            None,
            output,
            rounded.contiguous(),
            none,
            none,
            0.0,
            [True, True, True, False],
            causal,
            scale=scale,
        )
        return query_gradient, key_gradient, value_gradient


_QUERIES_ROUNDED_TO = 32
_KERNELS: dict[str, Kernel] = {"cpu": FlashOnCpu(), "cuda": EfficientOnCuda()}


def kernel_for(device: torch.device) -> Kernel | None:
    """The kernel of a kind of device; None where there is none."""
    return _KERNELS.get(device.type)

"""Losses of a trained output head piece by piece, with one gradient of the head for all pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

PieceLosses = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]
"""(raw logits (n, V), targets (n,)) to losses (n,) and whatever else is told of each position (n,)."""


class HeadLosses(torch.autograd.Function):
    """`piece_losses` of hidden states (N, H) and a head's weight (V, H) and bias, `at_once` positions at a time.

    Neither pass holds more than one piece's logits. The backward pass computes them once more and adds every piece's
    product to one gradient (V, H); autograd would make one a piece. The idea is that of fused linear cross entropy (Liger:
    Hsu et al. 2024, arXiv 2410.10989); here each position may have a gradient of its own from above, as class weights
    and focal factors give it. Products are computed in autocast's type where that is on, gradients of the head are summed
    in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        piece_losses: PieceLosses,
        at_once: int,
    ) -> tuple[torch.Tensor, ...]:
        kind = hidden.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        ctx.piece_losses, ctx.at_once = piece_losses, at_once
        ctx.save_for_backward(hidden, weight, bias, targets)
        computed = weight.to(ctx.dtype)
        pieces = [
            piece_losses(_raw_logits(states, computed, bias), wanted)
            for states, wanted in zip(torch.split(hidden, at_once), torch.split(targets, at_once), strict=True)
        ]
        outputs = tuple(torch.cat(part) for part in zip(*pieces, strict=True))
        ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        computed = weight.detach().to(ctx.dtype)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        of_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for start in range(0, len(hidden), ctx.at_once):
            piece = slice(start, start + ctx.at_once)

            def add(of_logits: torch.Tensor, states: torch.Tensor = hidden[piece]) -> None:
                of_logits = of_logits.float()
                of_weight.addmm_(of_logits.t(), states.float())
                if of_bias is not None:
                    of_bias.add_(of_logits.sum(dim=0))

            states = hidden[piece].detach().requires_grad_()
            with torch.enable_grad():
                logits = _raw_logits(states, computed, bias)
                # A hook, and not a gradient that is asked for: the logits themselves need not stay for it.
                logits.register_hook(add)  # type: ignore[no-untyped-call]
                outputs = ctx.piece_losses(logits, targets[piece])
                del logits
            wanted = [
                (output, gradient[piece])
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            (of_hidden[piece],) = torch.autograd.grad(
                [output for output, _ in wanted], states, [one for _, one in wanted]
            )
            del outputs, wanted
        return (
            of_hidden,
            of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _raw_logits(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return functional.linear(states.to(weight.dtype), weight, None if bias is None else bias.detach().to(weight.dtype))

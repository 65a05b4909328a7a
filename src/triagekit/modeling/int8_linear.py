"""Linear layers in 8-bit integers for scoring on CPUs: weights scaled by output channel, activations by token.

Both are rounded to -127 … 127 and multiplied exactly in 32-bit integers (T. Dettmers et al., LLM.int8(), arXiv 2208.07339,
without its outlier columns; its vector-wise scaling). As every token has its own scale, its result does not depend on the
tokens it is computed with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model

_LARGEST = 127.0
SMALLEST_SCALE = 1e-12


class Int8Linear(nn.Module):
    """A linear layer [..., K] → [..., N] for inference; weight int8 [N, K], scale float32 [N]."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Take over the weights of `linear`."""
        super().__init__()
        exact = linear.weight.detach().float()
        scale = (exact.abs().amax(dim=1) / _LARGEST).clamp(min=SMALLEST_SCALE)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", (exact / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`states` [..., K] → [..., N] of the same type."""
        tokens = states.reshape(-1, self.in_features).float()
        scale = (tokens.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp(min=SMALLEST_SCALE)
        rounded = (tokens * scale.reciprocal()).round_().to(torch.int8)
        result = torch._int_mm(rounded, self.weight.t()).to(torch.float32).mul_(scale).mul_(self.scale)
        if self.bias is not None:
            result.add_(self.bias)
        return result.to(states.dtype).reshape(*states.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """As nn.Linear shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def to_int8(model: nn.Module) -> int:
    """Replace the linear layers of a model's decoder, in place; embeddings, norms and output head stay as they are.

    Returns how many were replaced. Raises TriageError for a model that is not on a CPU, or whose layers are quantised.
    """
    decoder: Any = causal_model(model).get_decoder()
    if next(decoder.parameters()).device.type != "cpu":
        raise TriageError(
            "precision int8 is for CPUs. Add `device=cpu` (--device cpu), or use bf16 or fp16 on this GPU."
        )
    replaced = 0
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Int8Linear(child))
                replaced += 1
    if not replaced:
        raise TriageError(
            f"{type(causal_model(model)).__name__} has no plain linear layers to turn into int8 (is it quantised already?)."
        )
    return replaced

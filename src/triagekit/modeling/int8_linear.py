"""Linear layers in 8-bit integers for scoring: weights scaled by output channel, activations by token.

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
_ROWS_ON_CUDA, _STEP_ON_CUDA = 24, 8
"""torch multiplies int8 on CUDA devices from 17 rows on, and where both sides of the weight are multiples of 8."""
_FIRST_CAPABILITY = (7, 5)
"""Turing: the first CUDA devices that multiply int8 in their tensor cores."""


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
        result = integer_product(rounded, self.weight).to(torch.float32).mul_(scale).mul_(self.scale)
        if self.bias is not None:
            result.add_(self.bias)
        return result.to(states.dtype).reshape(*states.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """As nn.Linear shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def integer_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """int8 rows [T, K] by int8 weight [N, K] → exact int32 [T, N]."""
    if rows.device.type != "cuda":
        return torch._int_mm(rows, weight.t())
    return torch._int_mm(nn.functional.pad(rows, (0, 0, 0, rows_added(len(rows)))), weight.t())[: len(rows)]


def rows_added(rows: int) -> int:
    """Rows of zeros that a product on a CUDA device needs beside so many."""
    wanted = max(rows, _ROWS_ON_CUDA)
    return wanted + -wanted % _STEP_ON_CUDA - rows


def to_int8(model: nn.Module) -> int:
    """Replace the linear layers of a model's decoder, in place; embeddings, norms and output head stay as they are, and on a
    CUDA device layers with a side that its products cannot take.

    Returns how many were replaced. Raises TriageError for a device without int8 products, and for a model whose layers are
    quantised.
    """
    decoder: Any = causal_model(model).get_decoder()
    device = next(decoder.parameters()).device
    _check_device(device)
    step = 1 if device.type == "cpu" else _STEP_ON_CUDA
    replaced = 0
    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and not any(side % step for side in child.weight.shape):
                setattr(module, name, Int8Linear(child))
                replaced += 1
    if not replaced:
        raise TriageError(
            f"{type(causal_model(model)).__name__} has no plain linear layers to turn into int8 (is it quantised already?)."
        )
    return replaced


def _check_device(device: torch.device) -> None:
    if device.type == "cpu" or (
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_CAPABILITY
    ):
        return
    found = device.type
    if device.type == "cuda":
        found = "{}, compute capability {}.{}".format(
            torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)
        )
    raise TriageError(
        f"precision int8 is for CPUs and for NVIDIA cards from Turing (7.5) on; this is {found}. Use fp16, or `device=cpu` "
        "(--device cpu)."
    )

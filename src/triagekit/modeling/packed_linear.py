"""Linear layers whose weights lie as oneDNN's kernels read them: for inference in float32 on a CPU.

Where torch multiplies float32 through MKL, some processors get half of what they can do or less (MKL takes its AVX2 road on
AMD's, whatever they have), and each call lays the weights out anew. oneDNN is part of torch; weights are laid out once.
A row's numbers are the same among any two rows or more (`benchmarks/batch_invariance.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from triagekit.modeling.forward import causal_model
from triagekit.modeling.row_blocks import in_row_blocks

KERNELS = "TRIAGEKIT_KERNELS"
"""`off` in this variable leaves everything to plain torch."""
_TOLERANCE = 1e-4

Product = Callable[[torch.Tensor], torch.Tensor]


def packed_product(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Product | None:
    """states [..., K] → [..., N] for `weight` [N, K] and `bias` [N]; None where this torch or this machine cannot.

    The weight is copied. Not differentiable.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.dim() != 2:
        return None
    if os.environ.get(KERNELS) == "off" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    exact = weight.detach()
    own_bias = None if bias is None else bias.detach().float()
    try:
        multiply: Any = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(exact, None)

        def of_block(states: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = multiply(states, packed, own_bias, "none", [], "")
            return result

        def product(states: torch.Tensor) -> torch.Tensor:
            return in_row_blocks(of_block, states.contiguous())

        # They are torch's own, but not part of what it promises: what they compute is looked at.
        sample = torch.randn(4, exact.shape[1], generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = nn.functional.linear(sample, exact, own_bias)
            difference = (product(sample) - expected).abs().max()
        if not float(difference) <= _TOLERANCE * float(expected.abs().max().clamp(min=1e-6)):
            return None
    except (AttributeError, RuntimeError):
        return None
    return product


class PackedLinear(nn.Module):
    """A linear layer [..., K] → [..., N] that only infers."""

    def __init__(self, linear: nn.Linear, product: Product) -> None:
        """Stands in for `linear`; `product` as `packed_product` makes it of its weights."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._product = product

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`states` [..., K] → [..., N]."""
        return self._product(states)

    def extra_repr(self) -> str:
        """As nn.Linear shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def pack_linears(models: Sequence[nn.Module]) -> int:
    """Replace the plain linear layers of the models' decoders, in place; layers that share a weight share the packed one.

    Embeddings, norms and output heads stay as they are, and so do an adapter's own layers and those whose adapter reads their
    weights (DoRA). Returns how many were replaced.
    """
    products: dict[tuple[int, int], Product | None] = {}
    replaced = 0
    for model in models:
        decoder: Any = causal_model(model).get_decoder()
        for module in list(decoder.modules()):
            # PEFT keeps an adapter's layers in dictionaries, and looks at the types of their weights.
            if isinstance(module, nn.ModuleDict) or any(dict(getattr(module, "use_dora", {})).values()):
                continue
            for name, child in list(module.named_children()):
                if type(child) is not nn.Linear or child.weight.requires_grad:
                    continue
                key = (id(child.weight), id(child.bias))
                if key not in products:
                    products[key] = packed_product(child.weight, child.bias)
                product = products[key]
                if product is not None:
                    setattr(module, name, PackedLinear(child, product))
                    replaced += 1
    return replaced

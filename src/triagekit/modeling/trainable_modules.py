"""Norms and output heads whose trained weights are float32 while everything around them computes in another type."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Float32Norm:
    """Mixed into a norm's own class: computes in its weight's type and answers in the type it was given.

    Without it a float32 norm in a bfloat16 model hands float32 to the bfloat16 layer behind it, which fails.
    """

    def forward(self, hidden: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        weight: torch.Tensor = self.weight  # type: ignore[attr-defined]
        output: torch.Tensor = super().forward(hidden.to(weight.dtype), *arguments, **options)  # type: ignore[misc]
        return output.to(hidden.dtype)


class Float32Linear:
    """Mixed into a linear layer's class: float32 weights, products in the type of the input, as autocast does it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.weight  # type: ignore[attr-defined]
        bias: torch.Tensor | None = self.bias  # type: ignore[attr-defined]
        return functional.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype))


class OutputTokenLinear:
    """Mixed into the output head's class: the rows of some tokens are trained, the rest stays the base's.

    logits = x·Wᵀ + b with the columns `token_ids` replaced by x·rowsᵀ + b. `rows` [n, H] is float32 and starts as a copy
    of W's rows; W itself, which may be tied to the embeddings, is neither copied nor changed.
    """

    rows: nn.Parameter
    token_ids: torch.Tensor

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(hidden)  # type: ignore[misc]
        bias: torch.Tensor | None = self.bias  # type: ignore[attr-defined]
        chosen = functional.linear(hidden, self.rows.to(hidden.dtype), None if bias is None else bias[self.token_ids])
        return logits.index_copy(-1, self.token_ids, chosen.to(logits.dtype))


def mix_in(module: nn.Module, mixin: type) -> None:
    """Give `module` the mixin's forward; its parameters keep their names, so saved keys stay those of the base."""
    own = type(module)
    if not issubclass(own, mixin):
        module.__class__ = type(f"{mixin.__name__}{own.__name__}", (mixin, own), {"__module__": own.__module__})


def unmix(module: nn.Module, mixin: type) -> None:
    """Take back what `mix_in` did, if it did."""
    if isinstance(module, mixin):
        module.__class__ = type(module).__mro__[type(module).__mro__.index(mixin) + 1]


def is_norm(module: nn.Module) -> bool:
    """A LayerNorm or RMSNorm by class (of any model family, q_norm and k_norm too) that has weights of its own."""
    named = isinstance(module, nn.LayerNorm | nn.RMSNorm) or "Norm" in type(module).__name__
    weights = list(module.parameters(recurse=False))
    return named and bool(weights) and not list(module.children()) and all(weight.dim() == 1 for weight in weights)

"""PiSSA: start the low-rank update from the principal parts of each weight (Meng et al. 2024, arXiv 2404.02948).

W = U·S·Vᵀ; A₀ = √(S_r/s)·V_rᵀ, B₀ = U_r·√(S_r/s); the frozen part becomes W − s·B₀·A₀. The adapter folder keeps A₀ and B₀,
so that a fresh base becomes the same frozen part by the same subtraction, to the bit, without another SVD.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

ADAPTER = "default"
Initial = dict[str, torch.Tensor]


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(module name, LoRA layer) of every layer with a low-rank update."""
    for name, module in model.named_modules():
        if ADAPTER in getattr(module, "lora_A", {}):
            yield name, module


@torch.no_grad()
def start_from_principal_parts(model: Any, stored: Mapping[str, torch.Tensor] | None = None) -> Initial:
    """Set every A and B to A₀ and B₀ and subtract them from the frozen weight.

    `stored`: A₀ and B₀ of an earlier call, taken instead of an SVD. Returns them, by names `<module>.A` and `<module>.B`.
    """
    initial: Initial = {}
    for name, layer in lora_layers(model):
        weight = layer.get_base_layer().weight
        scaling = layer.scaling[ADAPTER]
        lora_a, lora_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        if stored is None:
            first, second = _principal_parts(weight.float(), lora_a.shape[0], scaling)
        else:
            first, second = stored[f"{name}.A"].to(weight.device), stored[f"{name}.B"].to(weight.device)
        lora_a.copy_(first)
        lora_b.copy_(second)
        weight.copy_((weight.float() - scaling * (second @ first)).to(weight.dtype))
        initial[f"{name}.A"] = first.float().cpu().contiguous()
        initial[f"{name}.B"] = second.float().cpu().contiguous()
    return initial


@torch.no_grad()
def restart_from(model: Any, stored: Mapping[str, torch.Tensor]) -> None:
    """Make the frozen weights those of another call's A₀ and B₀; nothing changes where they are already the same.

    An SVD need not give the same bits on another machine or thread count, and a run must go on from its own start.
    """
    for name, layer in lora_layers(model):
        own, other = ([parts[f"{name}.{letter}"] for letter in "AB"] for parts in (model.pissa_initial, stored))
        if torch.equal(own[0], other[0].cpu()) and torch.equal(own[1], other[1].cpu()):
            continue
        weight = layer.get_base_layer().weight
        (own_a, own_b), (other_a, other_b) = ([part.to(weight.device) for part in parts] for parts in (own, other))
        change = layer.scaling[ADAPTER] * (own_b @ own_a - other_b @ other_a)
        weight.copy_((weight.float() + change).to(weight.dtype))
        for letter, part in zip("AB", other, strict=True):
            model.pissa_initial[f"{name}.{letter}"] = part.cpu().clone()


def _principal_parts(weight: torch.Tensor, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = torch.sqrt(values[:rank] / scaling)
    return root[:, None] * right[:rank], left[:, :rank] * root[None, :]

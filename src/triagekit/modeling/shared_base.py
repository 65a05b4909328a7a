"""Several adapters over one base: what none of them has changed lies in memory once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from triagekit.modeling.forward import causal_model

if TYPE_CHECKING:
    from triagekit.modeling.adapter_folder import LoadedAdapter


def share_frozen(adapters: Sequence[LoadedAdapter]) -> int:
    """Let the last of `adapters` use the equal weights of those before it; returns the bytes that this saves.

    Adapters that are attached and not merged have all weights of their base in common, if it is the same base; norms and
    heads that were trained, and a model that was trained whole, keep their own. A weight is shared only if every number
    of it is the same, so nothing that is computed changes.
    """
    if not adapters:
        return 0
    *earlier, last = adapters
    there: dict[str, torch.nn.Parameter | None] = {}
    for adapter in earlier:
        for name, owner, key in _frozen(adapter):
            there.setdefault(name, owner._parameters[key])
    saved: dict[int, int] = {}
    for name, owner, key in _frozen(last):
        own, other = owner._parameters[key], there.get(name)
        if own is None or other is None or own is other or not _equal(own, other):
            continue
        owner._parameters[key] = other
        # A tied head is the embeddings once more.
        saved[id(own)] = own.numel() * own.element_size()
    return sum(saved.values())


def _frozen(adapter: LoadedAdapter) -> list[tuple[str, torch.nn.Module, str]]:
    """Every parameter by the name that it has in the plain base: (name, its module, its key there)."""
    return [
        (f"{path}.{key}".replace(".base_layer.", "."), module, key)
        for path, module in causal_model(adapter.model).named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None
    ]


def _equal(one: torch.nn.Parameter, other: torch.nn.Parameter) -> bool:
    if (type(one), one.shape, one.dtype, one.device) != (type(other), other.shape, other.dtype, other.device):
        return False
    if not torch.equal(one, other):
        return False
    # The codes of quantised weights mean what their scales make of them.
    mine, theirs = (getattr(getattr(weight, "quant_state", None), "absmax", None) for weight in (one, other))
    return mine is theirs or (mine is not None and theirs is not None and torch.equal(mine, theirs))

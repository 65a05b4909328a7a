"""LoRA+: a higher learning rate for the low-rank B than for A (Hayou et al. 2024, arXiv 2402.12354)."""

from __future__ import annotations

from typing import Any

from torch import nn

RATE_RATIO = "rate_ratio"
"""Key of an optimizer's group: its learning rate over that of the run."""


def raise_rate_of_b(optimizer: Any, model: nn.Module, ratio: float) -> None:
    """Put the low-rank B of every group into a group of its own, with `ratio` times the learning rate.

    For an optimizer that has made no step and has no schedule yet. A's groups stay first: the learning rate that is
    logged is theirs.
    """
    if ratio == 1:
        return
    b = {id(parameter) for name, parameter in model.named_parameters() if ".lora_B." in name}
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in b]
        if not own:
            continue
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in b]
        settings = {key: value for key, value in group.items() if key != "params"}
        optimizer.add_param_group({**settings, "params": own, "lr": group["lr"] * ratio, RATE_RATIO: ratio})

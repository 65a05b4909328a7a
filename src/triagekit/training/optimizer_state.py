"""The optimizer's state by the names of the weights: the same file whether one process trained or many, sharded or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from triagekit.errors import TriageError

State = dict[str, Any]
"""{"groups": [hyper-parameters of each group], "names": [[weight, ...], ...], "state": {weight: {figure: tensor}}}"""


def plain_state(optimizer: Any, model: nn.Module) -> State:
    """State of an optimizer that holds whole weights (one process, or DDP, where all processes hold the same)."""
    names = names_of_groups(optimizer, model)
    stored = optimizer.state_dict()
    order = [name for group in names for name in group]
    return {
        "groups": [hyper_parameters(group) for group in stored["param_groups"] if group["params"]],
        "names": names,
        "state": {order[index]: figures for index, figures in stored["state"].items()},
    }


def load_plain_state(optimizer: Any, model: nn.Module, state: Mapping[str, Any]) -> None:
    """Put `state` into an optimizer that holds whole weights. Raises TriageError when it belongs to other weights."""
    check_fits(names_of_groups(optimizer, model), model, state)
    groups = optimizer.state_dict()["param_groups"]
    for group, stored in zip([group for group in groups if group["params"]], state["groups"], strict=True):
        group.update(stored)
    order = [name for names in state["names"] for name in names]
    figures = {number: dict(state["state"][name]) for number, name in enumerate(order) if name in state["state"]}
    optimizer.load_state_dict({"state": figures, "param_groups": groups})


def names_of_groups(optimizer: Any, model: nn.Module) -> list[list[str]]:
    """Names of the weights in each of the optimizer's groups, in their order; DeepSpeed drops empty groups, so all do."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        [names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups if group["params"]
    ]


def check_fits(names: list[list[str]], model: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise TriageError unless `state` is of exactly these weights, in these groups and shapes."""
    stored = [list(group) for group in state["names"]]
    if stored != names:
        ours, theirs = {name for group in names for name in group}, {name for group in stored for name in group}
        odd = sorted(ours ^ theirs)[:3]
        raise TriageError(f"the stored optimizer belongs to other weights or other groups of them {odd}")
    shapes = {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in model.named_parameters()}
    for name, figures in state["state"].items():
        for figure in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            tensor = figures.get(figure)
            if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) != shapes[name]:
                raise TriageError(f"the stored optimizer has another shape for {name}")


def hyper_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group's settings, without its weights."""
    return {key: value for key, value in group.items() if key != "params"}

"""DeepSpeed's shards: taken apart and put together again, so that checkpoints do not depend on how many there are.

DeepSpeed's own checkpoints are pickles that only the same number of processes can read. Here every trained weight's
master copy and optimizer figures are gathered whole, which costs little where adapters are trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from triagekit.errors import TriageError
from triagekit.files.resources import configs_folder
from triagekit.training.optimizer_state import State, check_fits, hyper_parameters
from triagekit.training.ranks import Ranks

SHARDED_OPTIMIZERS = ("adamw", "sgd")
"""Optimizers whose update of a weight needs nothing of its neighbours, so that shards of any cut give the same."""


def deepspeed_config(ranks: Ranks) -> dict[str, Any]:
    """DeepSpeed's settings: the shipped configs/deepspeed/<stage>.json, or the file that accelerate's config names."""
    shipped = configs_folder() / "deepspeed" / f"{ranks.sharding}.json"
    path = Path(ranks.deepspeed_file) if ranks.deepspeed_file else shipped
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TriageError(f"DeepSpeed's settings {path} cannot be read: {error}") from None
    section = config.get("zero_optimization", {})
    unusable = [name for name in ("optimizer", "scheduler", "fp16", "bf16") if name in config]
    if unusable or section.get("offload_param") or section.get("offload_optimizer"):
        raise TriageError(
            f"{path}: leave out optimizer, scheduler, fp16, bf16 and offloading (it has {unusable or 'offloading'}). The "
            "run's own settings decide these, and trained weights stay float32."
        )
    return config


def shard_weights(model: nn.Module, config: Mapping[str, Any], ranks: Ranks) -> None:
    """Leave only this process's share of every weight of `model` in memory (ZeRO-3), one weight after the other.

    The whole model is built on the CPU first: adapters, heads and their first values are then those of any other run,
    and no card ever holds more than its share and one whole weight.
    """
    import deepspeed

    own = {"train_batch_size": ranks.size, "zero_optimization": dict(config["zero_optimization"])}
    deepspeed.zero.Init(module=model, config_dict_or_path=own, dtype=torch.float32)


def gathered_weights(model: nn.Module, keep: bool) -> dict[str, torch.Tensor]:
    """Every trained weight whole, on the CPU, where `keep`; {} elsewhere. Collective."""
    import deepspeed

    gathered = {}
    for name, parameter in _trained(model).items():
        with deepspeed.zero.GatheredParameters([parameter]):
            if keep:
                gathered[name] = parameter.detach().cpu().clone()
    return gathered


def gathered_state(optimizer: Any, model: nn.Module, names: list[list[str]], keep: bool) -> State:
    """The sharded optimizer's state in the form of optimizer_state.plain_state, where `keep`. Collective."""
    from deepspeed.utils import safe_get_full_optimizer_state

    inner = optimizer.optimizer
    trained = _trained(model)
    _link_figures(optimizer)
    state: dict[str, dict[str, Any]] = {}
    for names_of_group, flat in zip(names, _flat_of_groups(optimizer, names), strict=True):
        figures = inner.state.get(flat[0], {}) if flat else {}
        whole = [key for key, value in figures.items() if torch.is_tensor(value) and value.shape == flat[0].shape]
        single = {key: _copied(value) for key, value in figures.items() if key not in whole}
        for name in names_of_group:
            full = {key: safe_get_full_optimizer_state(trained[name], key) for key in whole}
            if keep and figures:
                state[name] = {**single, **{key: tensor.cpu().clone() for key, tensor in full.items()}}
    return {"groups": [hyper_parameters(group) for group in inner.param_groups], "names": names, "state": state}


def load_gathered_state(optimizer: Any, model: nn.Module, names: list[list[str]], state: Mapping[str, Any]) -> None:
    """Give each process its share of `state`. Raises TriageError when it belongs to other weights."""
    from deepspeed.utils import safe_set_full_optimizer_state

    check_fits(names, model, state)
    inner = optimizer.optimizer
    trained = _trained(model)
    for group, stored in zip(inner.param_groups, state["groups"], strict=True):
        group.update(stored)
    flats = _flat_of_groups(optimizer, names)
    wholes = []
    for names_of_group, flat in zip(names, flats, strict=True):
        first = state["state"].get(names_of_group[0], {}) if names_of_group else {}
        shape = (
            tuple(getattr(trained[names_of_group[0]], "ds_shape", trained[names_of_group[0]].shape)) if first else ()
        )
        whole = [key for key, value in first.items() if torch.is_tensor(value) and tuple(value.shape) == shape]
        wholes.append(whole)
        for partition in flat:
            for key, value in first.items():
                # Adam's step counter stands on the CPU, the figures beside their weights.
                inner.state[partition][key] = torch.zeros_like(partition) if key in whole else _copied(value)
    _link_figures(optimizer)
    for names_of_group, whole in zip(names, wholes, strict=True):
        for name in names_of_group:
            for key in whole:
                safe_set_full_optimizer_state(trained[name], state["state"][name][key].to(trained[name].device), key)


def _link_figures(optimizer: Any) -> None:
    """Let ZeRO-2 know each weight's part of the optimizer's figures. It does so by itself after the first step of the
    first group, when the others (the weights without decay) have no figures yet, and never again."""
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _flat_of_groups(optimizer: Any, names: list[list[str]]) -> list[list[torch.Tensor]]:
    """This process's flat partitions of each group: one a group in ZeRO-2, one a sub-group in ZeRO-3."""
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return [[flat] for flat in optimizer.single_partition_of_fp32_groups]
    flats: list[list[torch.Tensor]] = [[] for _ in names]
    for sub_group, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
        flats[optimizer.sub_group_to_group_id[sub_group]].append(flat)
    return flats


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if torch.is_tensor(value) else value

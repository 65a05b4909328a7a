"""LoRA+: B learns at a multiple of A's rate, in every step of the schedule, and after a kill too."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_helpers import adapter_bytes, metric_lines, run_in_a_process

from triagekit.training.checkpoint_state import move_schedule
from triagekit.training.lora_plus import RATE_RATIO, raise_rate_of_b
from triagekit.training.run_folder import RunFolder


class Adapted(nn.Module):
    """Names as PEFT gives them."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Module()
        layer.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        layer.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
        self.q_proj = layer
        self.norm = nn.LayerNorm(4)


def optimizer_of(model):
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    rest = [p for name, p in model.named_parameters() if "norm" in name]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, betas=(0.8, 0.9)
    )


def test_only_b_moves_to_a_group_of_its_own_with_all_other_settings():
    model = Adapted()
    optimizer = optimizer_of(model)
    raise_rate_of_b(optimizer, model, 16)
    (b,) = model.q_proj.lora_B["default"].parameters()
    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 16e-3]
    assert [parameter is b for parameter in groups[2]["params"]] == [True]
    assert groups[2]["weight_decay"] == 0.1 and groups[2]["betas"] == (0.8, 0.9)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_ratio_of_one_changes_nothing():
    model = Adapted()
    optimizer = optimizer_of(model)
    raise_rate_of_b(optimizer, model, 1.0)
    assert len(optimizer.param_groups) == 2 and RATE_RATIO not in optimizer.param_groups[0]


def test_the_schedule_moves_both_rates():
    model = Adapted()
    rates = {}
    for moved in (False, True):
        optimizer = optimizer_of(model)
        raise_rate_of_b(optimizer, model, 16)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if moved:
            move_schedule(schedule, optimizer, 3)
        else:
            for _ in range(3):
                optimizer.step()
                schedule.step()
        rates[moved] = [group["lr"] for group in optimizer.param_groups]
        assert schedule.get_last_lr() == rates[moved]
    assert rates[True] == pytest.approx(rates[False]) == [0.25e-3, 0.25e-3, 4e-3]


def test_a_kill_changes_nothing(settings_for):
    changes = {"adapter": {"lora_plus_ratio": 16.0}, "epochs": 1, "checkpoints": {"every_steps": 2, "keep": 2}}
    assert run_in_a_process(settings_for(name="whole", **changes)) == 0
    settings = settings_for(**changes)
    run, whole = (RunFolder(f"{settings.output}/{name}") for name in ("run", "whole"))
    assert run_in_a_process(settings, lambda: len(metric_lines(run.folder)) >= 2) == -9
    assert run_in_a_process(settings) == 0
    assert metric_lines(run.folder) == metric_lines(whole.folder)
    assert adapter_bytes(run.folder) == adapter_bytes(whole.folder)


@pytest.mark.long
def test_b_really_moves_further(settings_for):
    from safetensors.torch import load_file

    moved = {}
    for ratio in (1.0, 16.0):
        settings = settings_for(
            name=f"ratio{ratio:g}", adapter={"lora_plus_ratio": ratio}, optimizer={"learning_rate": 1e-4}, max_steps=2
        )
        assert run_in_a_process(settings) == 0
        weights = load_file(f"{settings.output}/{settings.name}/adapter/adapter_model.safetensors")
        moved[ratio] = max(tensor.abs().max().item() for name, tensor in weights.items() if ".lora_B." in name)
    # Adam's first steps have the size of the rate; B starts at zero.
    assert moved[16.0] / moved[1.0] == pytest.approx(16, rel=0.2)

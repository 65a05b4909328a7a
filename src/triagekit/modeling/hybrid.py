"""The hybrid method: LoRA, and the full-rank output head and every norm trained beside it.

The method is that of the ERP triage study (LoRA on attention, `lm_head` and all norms unfrozen); related: LongLoRA's
trainable embeddings and norms (Chen et al. 2024, arXiv 2309.12307). Unfreezing by hand loses these weights at saving,
misses tied heads, and rounds small steps away in bfloat16; here they are PEFT `modules_to_save` by exact name, with
float32 weights, and a tied head becomes a tensor of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from triagekit.errors import TriageError
from triagekit.modeling.output_head import declare_untied, head_name, is_tied
from triagekit.modeling.settings import AdapterSettings
from triagekit.modeling.trainable_modules import Float32Linear, Float32Norm, is_norm, mix_in, unmix


def norm_names(model: nn.Module) -> list[str]:
    """Full names of every norm with weights: input, post-attention, final, q_norm and k_norm, as far as there are such.

    Raises TriageError when there is none.
    """
    names = [name for name, module in model.named_modules() if is_norm(module)]
    if not names:
        raise TriageError(
            f"{type(model).__name__} has no norm with weights, so method: hybrid has nothing to add to lora."
        )
    return names


def modules_to_save(model: Any, settings: AdapterSettings) -> list[str]:
    """Exact module names that are trained whole; a head tied to the embeddings is declared untied."""
    names = norm_names(model)
    if settings.head == "all":
        head = model.get_output_embeddings()
        name = head_name(model)
        if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
            raise TriageError(f"method: hybrid trains a linear output head, but {name} is {type(head).__name__}.")
        names.append(name)
        if is_tied(model):
            # The trained copy that PEFT makes is a tensor of its own; the embeddings stay the base's.
            declare_untied(model)
    return names


def train_in_float32(model: nn.Module) -> None:
    """Give every module that is trained whole float32 weights and a forward that fits into the base's number type."""
    for _, copy in saved_modules(model):
        copy.to(torch.float32)
        mix_in(copy, Float32Norm if is_norm(copy) else Float32Linear)


def plain_again(model: nn.Module, dtype: torch.dtype) -> None:
    """After merging: the trained norms and head as ordinary modules of the base's number type."""
    for module in model.modules():
        for mixin in (Float32Norm, Float32Linear):
            if isinstance(module, mixin):
                unmix(module, mixin)
                module.to(dtype)


def saved_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name in the base model, trained copy) of every module that is trained whole."""
    from peft.utils.other import ModulesToSaveWrapper

    return [
        (name.removeprefix("base_model.model."), module.modules_to_save["default"])
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]

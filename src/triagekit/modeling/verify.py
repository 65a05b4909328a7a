"""Is what was written what was trained? The folder is reopened on a fresh base and compared with the model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from triagekit.errors import Problem, ProblemsError
from triagekit.modeling.adapter_files import WEIGHTS_FILES, read_tensors
from triagekit.modeling.adapter_folder import open_on_fresh_base
from triagekit.modeling.adapters import adapter_state, loaded_dtype
from triagekit.modeling.forward import causal_model, hidden_states, project_to_logits
from triagekit.modeling.precision import precision_name
from triagekit.modeling.quantization import quantization_of

POSITIONS = 8
"""Logits are compared at the last 8 positions of each sample; their hidden states depend on the whole sample."""

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
_OTHER_DEVICE = 100


def compare_with_memory(folder: Path, card: dict[str, Any], model: Any, allow_untrained: bool = False) -> None:
    """Check the files' tensors and the reopened model against `model`.

    No tensor is empty; no low-rank part, no head and no matrix is all zero (unless `allow_untrained`); tensors are as
    many and as large as the model's trained ones and equal them to the bit; logits on the parity samples are equal (relative 1e-5
    in float32; exact where both models stand on one device). Raises ProblemsError with everything that is wrong.
    """
    problems = _file_problems(folder, model, allow_untrained)
    if problems:
        raise ProblemsError(f"The adapter written to {folder} is wrong:", problems)
    device = _device_for_copy(model)
    precision, quantization = precision_name(loaded_dtype(model)), quantization_of(causal_model(model))
    fresh = open_on_fresh_base(folder, card, card["base"], precision, quantization, str(device))
    problems = [*_state_problems(fresh, model), *_logit_problems(card, fresh, model)]
    if problems:
        raise ProblemsError(f"The adapter reopened from {folder} is not the model in memory:", problems)


def _file_problems(folder: Path, model: Any, allow_untrained: bool) -> list[Problem]:
    problems = []
    count = 0
    for file in WEIGHTS_FILES:
        if not (folder / file).is_file():
            continue
        for name, tensor in read_tensors(folder / file).items():
            count += name != "token_ids"
            matrix = tensor.dim() >= 2
            if tensor.numel() == 0:
                problems.append(Problem(file, f"{name} is empty.", "Was it sharded over several processes?"))
            elif matrix and not allow_untrained and not bool(tensor.any()):
                problems.append(Problem(file, f"{name} is all zero.", "No step of training has reached it."))
            elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                problems.append(
                    Problem(file, f"{name} holds NaN or infinity.", "Training diverged; lower the learning rate.")
                )
    expected = len(adapter_state(model))
    if count != expected:
        problems.append(Problem(str(folder), f"{count} tensors were written, but {expected} are trained."))
    return problems


def _state_problems(fresh: Any, model: Any) -> list[Problem]:
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reopened = dict(fresh.named_parameters())
    problems = []
    for name, parameter in model.named_parameters():
        if name not in names:
            continue
        if name not in reopened:
            problems.append(Problem(name, "is trained, but not in the reopened model."))
        elif not torch.equal(parameter.detach().cpu(), reopened[name].detach().cpu()):
            problems.append(Problem(name, "differs between file and memory."))
    return problems


@torch.no_grad()
def _logit_problems(card: dict[str, Any], fresh: Any, model: Any) -> list[Problem]:
    was_training = model.training
    model.eval()
    problems = []
    for number, sample in enumerate(card["parity"]):
        ours, theirs = (_last_logits(each, sample["ids"]) for each in (model, fresh))
        if torch.equal(ours, theirs):
            continue
        dtype = causal_model(model).get_input_embeddings().weight.dtype
        same_device = _device_of(model) == _device_of(fresh)
        tolerance = _TOLERANCE[dtype] * (1 if same_device else _OTHER_DEVICE)
        difference = float((ours - theirs).abs().max())
        if not difference <= tolerance * max(1.0, float(ours.abs().max())):
            problems.append(Problem(f"sample {number}", f"logits differ by up to {difference:.3g}."))
    model.train(was_training)
    return problems


def _last_logits(model: Any, ids: list[int]) -> torch.Tensor:
    input_ids = torch.tensor([ids], device=_device_of(model))
    hidden, _ = hidden_states(model, input_ids, torch.ones_like(input_ids))
    return project_to_logits(model, hidden[:, -POSITIONS:]).float().cpu()


def _device_of(model: Any) -> torch.device:
    return torch.device(causal_model(model).get_input_embeddings().weight.device)


def _device_for_copy(model: Any) -> torch.device:
    """Beside the model if the card has room for a second base, else on the CPU."""
    device = _device_of(model)
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if free > 1.3 * causal_model(model).get_memory_footprint() else torch.device("cpu")

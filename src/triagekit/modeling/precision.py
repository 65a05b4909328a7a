"""Which number type a base is loaded in, knowing which cards only pretend to have bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triagekit.errors import TriageError, did_you_mean

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
BF16_CAPABILITY = (8, 0)
"""Ampere. T4 (7.5), GTX 16 (7.5) and V100 (7.0) run bfloat16 by emulation, several times slower than float16."""


def resolve_precision(precision: str = "auto", device: str | None = None) -> torch.dtype:
    """The torch type for 'auto', 'fp32', 'fp16' or 'bf16' on `device` (None: cuda if there is one, else cpu).

    auto: bf16 on CUDA cards of capability ≥ 8.0, fp16 on older ones, fp32 on CPU.
    Raises TriageError for an unknown name and for bf16 on a card that only emulates it.
    """
    import torch

    if precision not in PRECISIONS:
        raise TriageError(f"precision '{precision}' is not known. {did_you_mean(precision, PRECISIONS)}")
    on_cuda = (device or default_device()).startswith("cuda")
    if precision == "fp32" or (precision == "auto" and not on_cuda):
        return torch.float32
    if precision == "fp16":
        return torch.float16
    if not on_cuda:
        return torch.bfloat16
    capability = torch.cuda.get_device_capability(device)
    if capability >= BF16_CAPABILITY:
        return torch.bfloat16
    if precision == "auto":
        return torch.float16
    raise TriageError(
        f"precision: bf16 on {torch.cuda.get_device_name(device)}: the card (capability "
        f"{capability[0]}.{capability[1]}) has no bfloat16 units and would emulate it. Set precision: fp16 "
        "(trained weights stay float32 either way), or auto."
    )


def default_device() -> str:
    """'cuda' if this process sees a card, else 'cpu'."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def precision_name(dtype: torch.dtype) -> str:
    """'fp32', 'fp16' or 'bf16' of a torch type."""
    return {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}.get(str(dtype), str(dtype))

"""Usual peak learning rates (Adam and its kin, effective batches of 4 to 64 rows) by size of the base.

Sources: Dettmers et al. 2023 (QLoRA, arXiv 2305.14314) take 2e-4 at 7-13 B and 1e-4 at 33-65 B; Biderman et al. 2024
(LoRA Learns Less and Forgets Less, arXiv 2405.09673) and Schulman et al. 2025 (LoRA Without Regret, Thinking Machines)
find LoRA's best rate about ten times that of full fine-tuning; the latter also that it falls with the width H of the
model, 5e-4 (2000 / H)^p with p 0.08 for Qwen and 0.78 for Llama. The first row holds this package's embedded base, whose
presets take 2e-3 for LoRA and for all weights. The ranges are wide on purpose: a rate outside of them is more often
a slip than a choice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from triagekit.modeling.settings import AdapterSettings


class RateRange(NamedTuple):
    """Lowest and highest usual rate for bases of up to `weights` weights."""

    weights: float
    lowest: float
    highest: float


LORA = (
    RateRange(50e6, 2e-4, 1e-2),
    RateRange(400e6, 1e-4, 5e-3),
    RateRange(4e9, 3e-5, 2e-3),
    RateRange(16e9, 2e-5, 1e-3),
    RateRange(math.inf, 1e-5, 5e-4),
)
"""LoRA and its variants; hybrid too, whose rate is LoRA's."""

FULL_OVER_LORA = 0.1
"""Of bases that are larger than the embedded one. On that one rates up to 2e-3 still gained for all weights
(benchmarks/results/methods_it_service_500.json)."""

FULL = (
    RateRange(50e6, 5e-5, 3e-3),
    *(RateRange(row.weights, row.lowest * FULL_OVER_LORA, row.highest * FULL_OVER_LORA) for row in LORA[1:]),
)


def usual_rates(adapter: AdapterSettings, weights: int) -> tuple[float, float]:
    """Lowest and highest usual peak rate for this method on a base of so many weights. With LoRA+ the rate is A's, and
    B's is a multiple of it."""
    found = next(row for row in (FULL if adapter.method == "full" else LORA) if weights <= row.weights)
    return found.lowest / adapter.lora_plus_ratio, found.highest

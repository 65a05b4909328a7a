"""A model that is grown says what the small one says, until its copies part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from grown_model import grow

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
LARGE = {**SMALL, "vocab_size": 90, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5}


def made(sizes: dict[str, int], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            # Norms of ones, biases of zeros and nearly equal logits would hide a mistake.
            weights.copy_(torch.rand_like(weights) + 0.5 if "norm" in name else torch.randn_like(weights) * 0.3)
    return model


def test_the_function_stays_and_gradients_reach_everything_new() -> None:
    small, large = made(SMALL, 0), made(LARGE, 1)
    grow(small, large, noise=0)
    ids = torch.randint(SMALL["vocab_size"], (3, 40), generator=torch.Generator().manual_seed(2))
    expected, found = small(ids).logits, large(ids).logits[..., : SMALL["vocab_size"]]
    assert expected.std() > 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    grow(small, large, noise=0.05)
    noisy = large(ids).logits[..., : SMALL["vocab_size"]]
    assert 0 < (noisy - expected).abs().mean() < 0.3 * expected.std()
    large.zero_grad()
    noisy.square().sum().backward()
    for name, weights in large.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            assert weights.grad is not None and (weights.grad != 0).float().mean() > 0.9, name


def test_a_shape_that_it_cannot_grow_into_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden_size is not twice, num_hidden_layers is smaller\.$"):
        grow(made(SMALL, 0), made({**LARGE, "hidden_size": 32, "num_hidden_layers": 1}, 1))

"""Linear layers in 8-bit integers: near the exact ones, and each token by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from triagekit.errors import TriageError
from triagekit.modeling.int8_linear import Int8Linear, integer_product, rows_added, to_int8


def test_near_the_exact_product_and_each_token_by_itself() -> None:
    torch.manual_seed(0)
    exact = nn.Linear(64, 48)
    layer = Int8Linear(exact)
    states = torch.randn(3, 5, 64) * torch.logspace(-3, 2, 15).reshape(3, 5, 1)
    states[0, 0] = 0.0
    with torch.inference_mode():
        found, expected = layer(states), exact(states)
    # Steps of 1/127 on both sides, summed with random signs over 64 products.
    assert float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max()) < 0.02
    assert torch.equal(found[0, 0], exact.bias)
    assert torch.equal(layer(states[1:2, 2:3])[0, 0], found[1, 2]), "other tokens have no part in a token's result"
    assert layer.weight.dtype == torch.int8 and layer.weight.nelement() == exact.weight.nelement()


def test_every_layer_of_a_decoder_and_only_once(tiny_model_folder: Path) -> None:
    from triagekit.modeling.base import load_base

    model = load_base(str(tiny_model_folder), device="cpu")
    ids = torch.arange(1, 40)[None]
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        assert to_int8(model) == 2 * 7
        after = model(input_ids=ids).logits
    assert float((before - after).norm() / before.norm()) < 0.05
    assert type(model.get_output_embeddings()) is nn.Linear
    with pytest.raises(TriageError, match="quantised already"):
        to_int8(model)


@pytest.mark.parametrize("rows", [1, 16, 17, 24, 25, 100])
def test_rows_that_a_cuda_product_needs_beside_change_nothing(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    states, weight = (torch.randint(-127, 128, (count, 64), generator=generator).to(torch.int8) for count in (rows, 48))
    with_zeros = nn.functional.pad(states, (0, 0, 0, rows_added(rows)))
    assert len(with_zeros) > 16 and len(with_zeros) % 8 == 0
    assert torch.equal(integer_product(with_zeros, weight)[:rows], integer_product(states, weight))


def test_a_device_without_int8_products_is_refused_by_name(tiny_model_folder: Path) -> None:
    from triagekit.modeling.base import load_base

    model = load_base(str(tiny_model_folder), device="cpu").to("meta")
    with pytest.raises(TriageError, match=r"CPUs and for NVIDIA cards from Turing.*this is meta"):
        to_int8(model)

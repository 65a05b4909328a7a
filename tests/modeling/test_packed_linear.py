"""Packed linear layers compute what the plain ones do, in fewer seconds, and only where they can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triagekit.modeling.adapters import AdapterSettings, attach_adapter
from triagekit.modeling.base import load_base
from triagekit.modeling.forward import causal_model, hidden_states
from triagekit.modeling.packed_linear import KERNELS, PackedLinear, pack_linears, packed_product


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inner", "columns"), [(256, 768), (64, 17), (7, 1)])
def test_a_packed_layer_is_its_layer(inner: int, columns: int, bias: bool) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(inner, columns, bias=bias).requires_grad_(False)
    product = packed_product(linear.weight, linear.bias)
    assert product is not None
    packed = PackedLinear(linear, product)
    for shape in ((1, inner), (5, inner), (2, 33, inner), (200, inner)):
        states = torch.randn(*shape)
        assert torch.allclose(packed(states), linear(states), atol=1e-5)
    assert (packed.in_features, packed.out_features) == (inner, columns)


def test_a_rows_numbers_are_its_own() -> None:
    torch.manual_seed(1)
    linear = nn.Linear(256, 768).requires_grad_(False)
    product = packed_product(linear.weight, linear.bias)
    assert product is not None
    states = torch.randn(300, 256)
    whole = product(states)
    assert all(torch.equal(product(states[:rows]), whole[:rows]) for rows in range(4, 300, 4))


def test_a_model_keeps_its_logits_and_shares_what_is_shared(base_folder: object) -> None:
    first, second = (load_base(base_folder("Qwen2", True), device="cpu") for _ in range(2))  # type: ignore[operator]
    ids = torch.tensor([[3, 4, 5, 6]])
    first.requires_grad_(False)
    second.requires_grad_(False)
    for one, other in zip(first.modules(), second.modules(), strict=True):
        if type(one) is nn.Linear:
            other.weight, other.bias = one.weight, one.bias
    with torch.inference_mode():
        before = hidden_states(first, ids)[0]
        layers = len(list(causal_model(first).get_decoder().layers))
        assert pack_linears([first, second]) == 2 * 7 * layers
        assert torch.allclose(hidden_states(first, ids)[0], before, atol=1e-5)
    both = [[part._product for part in model.modules() if isinstance(part, PackedLinear)] for model in (first, second)]
    assert all(one is other for one, other in zip(*both, strict=True))
    assert type(causal_model(first).get_output_embeddings()) is nn.Linear
    assert pack_linears([first]) == 0


@pytest.mark.parametrize(("dora", "packed"), [(False, True), (True, False)])
def test_beside_an_adapter(base_folder: object, dora: bool, packed: bool) -> None:
    model, _ = attach_adapter(load_base(base_folder("Qwen2", True), device="cpu"), AdapterSettings(r=4, dora=dora))  # type: ignore[operator]
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        before = hidden_states(model, ids)[0]
        assert bool(pack_linears([model])) == packed
        assert torch.allclose(hidden_states(model, ids)[0], before, atol=1e-5)


def test_what_cannot_be_packed_stays(base_folder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(4, 3)
    assert packed_product(weight.bfloat16()) is None and packed_product(torch.randn(3)) is None
    trained = load_base(base_folder("Qwen2", True), device="cpu").requires_grad_(True)  # type: ignore[operator]
    assert pack_linears([trained]) == 0
    monkeypatch.setenv(KERNELS, "off")
    assert packed_product(weight) is None


def test_wrong_numbers_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(4, 3)
    assert packed_product(weight) is not None
    monkeypatch.setattr("triagekit.modeling.packed_linear._TOLERANCE", -1.0)
    assert packed_product(weight) is None

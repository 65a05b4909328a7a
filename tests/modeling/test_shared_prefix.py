"""Attention over packed rows with shared prefixes equals plain attention, to the last rounding, forward and backward."""

from __future__ import annotations

import pytest
import torch
import transformers
from modeling_helpers import FAMILIES, random_model
from torch._dynamo.testing import CompileCounter

from triagekit.errors import TriageError
from triagekit.modeling.adapters import attach_adapter
from triagekit.modeling.forward import causal_model, hidden_states
from triagekit.modeling.settings import AdapterSettings
from triagekit.modeling.shared_prefix import attention
from triagekit.modeling.shared_prefix.attention import (
    SharedPrefixAttention,
    attend_by_shared_prefix,
    masked_attention,
    shared_prefix_attention,
    shared_prefix_attention_of,
)
from triagekit.modeling.shared_prefix.check import why_not_packed
from triagekit.modeling.shared_prefix.flex import FlexAttention
from triagekit.modeling.shared_prefix.kernels import EfficientOnCuda, FlashOnCpu
from triagekit.modeling.shared_prefix.layout import SharedPrefixLayout

GROUPS = {
    "rows of one length": [(5, [4, 4, 4])],
    "very unequal rows": [(5, [1, 70, 3])],
    "one row": [(6, [3])],
    "prefix longer than all rows": [(90, [2, 1])],
    "two prefixes": [(5, [3, 4]), (2, [6])],
    "a row of its own": [(0, [7]), (4, [2, 2])],
    "only rows of their own": [(0, [4]), (0, [5])],
    "prefix of one token": [(1, [1, 1])],
}


def seen_by_each(groups):
    """The mask [T, T] by the plainest reading of what a group is."""
    total = sum(prefix + sum(rows) for prefix, rows in groups)
    mask, place = torch.zeros(total, total, dtype=torch.bool), 0
    for prefix, rows in groups:
        start = place
        mask[start : start + prefix, start : start + prefix] = torch.ones(prefix, prefix).tril().bool()
        place += prefix
        for length in rows:
            mask[place : place + length, start : start + prefix] = True
            mask[place : place + length, place : place + length] = torch.ones(length, length).tril().bool()
            place += length
    return mask


@pytest.mark.parametrize("name", GROUPS)
def test_the_layout_knows_places_positions_and_who_sees_whom(name):
    layout = SharedPrefixLayout.of(GROUPS[name])
    assert torch.equal(layout.mask(), seen_by_each(GROUPS[name]))
    expected = [
        position
        for prefix, rows in GROUPS[name]
        for position in (*range(prefix), *(place for length in rows for place in range(prefix, prefix + length)))
    ]
    assert layout.positions.tolist() == expected and layout.longest == max(expected) + 1
    assert layout.rows == sum(len(rows) for _, rows in GROUPS[name]) == len(layout.starts)
    near = (layout.positions[:, None] - layout.positions < 3) & layout.mask()
    assert torch.equal(layout.mask(window=3), near)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_attention_and_its_gradients_equal_those_by_a_mask(name, heads):
    torch.manual_seed(0)
    layout = SharedPrefixLayout.of(GROUPS[name])
    tokens = len(layout.positions)
    tensors = [torch.randn(count, tokens, 16, requires_grad=True) for count in (heads[0], heads[1], heads[1])]
    ours = SharedPrefixAttention.apply(*tensors, layout, 0.3, FlashOnCpu())
    theirs = masked_attention(*tensors, seen_by_each(GROUPS[name]), 0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    incoming = torch.randn_like(ours)
    gradients = (torch.autograd.grad(result, tensors, incoming) for result in (ours, theirs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_large_scores_leave_the_padding_of_short_rows_without_a_trace():
    """A padded cell's scores may lie far above the log-sum-exp of the place it repeats."""
    torch.manual_seed(0)
    groups = [(4, [3, 30])]
    layout = SharedPrefixLayout.of(groups)
    tensors = [(40 * torch.randn(2, 37, 16)).requires_grad_() for _ in range(3)]
    ours = SharedPrefixAttention.apply(*tensors, layout, 0.3, FlashOnCpu())
    gradients = torch.autograd.grad(ours, tensors, torch.randn_like(ours))
    assert all(gradient.isfinite().all() for gradient in gradients)


def padded_and_packed(model, groups):
    """Hidden states of all own tokens, and gradients of the trained weights, both ways."""
    torch.manual_seed(1)
    count = causal_model(model).get_input_embeddings().weight.shape[0]
    texts = [(torch.randint(count, (prefix,)), [torch.randint(count, (n,)) for n in rows]) for prefix, rows in groups]
    layout = SharedPrefixLayout.of(groups)
    packed_ids = torch.cat([piece for prefix, rows in texts for piece in (prefix, *rows)])[None]
    own = torch.cat([torch.full((piece.numel(),), i > 0) for p, rows in texts for i, piece in enumerate((p, *rows))])
    with shared_prefix_attention_of(model):
        states, _ = hidden_states(model, packed_ids, position_ids=layout.positions[None], shared_prefix=layout)
        ours = states[0, own]
        of_ours = trained_gradients(model, ours)
    single = []
    for prefix, rows in texts:
        for row in rows:
            ids = torch.cat([prefix, row])[None]
            single.append(hidden_states(model, ids, torch.ones_like(ids))[0][0, len(prefix) :])
    theirs = torch.cat(single)
    return (ours, of_ours), (theirs, trained_gradients(model, theirs))


def trained_gradients(model, states):
    function = (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad(function, trained, allow_unused=True)


@pytest.mark.parametrize("method", ["lora", "hybrid", "full"])
@pytest.mark.parametrize("family", [*FAMILIES, "Gemma3"])
def test_every_architecture_computes_the_same_as_row_by_row(family, method):
    base = random_model(family) if family != "Gemma3" else gemma3()
    model, _ = attach_adapter(base, AdapterSettings(r=4, method=method))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    for groups in GROUPS.values():
        (ours, of_ours), (theirs, of_theirs) = padded_and_packed(model, groups)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        size = sum(float(one.norm()) ** 2 for one in of_theirs if one is not None) ** 0.5
        for one, other in zip(of_ours, of_theirs, strict=True):
            assert (one is None) == (other is None)
            assert one is None or float((one - other).norm()) < 1e-5 * size
    assert why_not_packed(model) is None


def gemma3():
    """Layers with a sliding window beside full ones, two rotary bases, norms of queries and keys."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config).eval()


@pytest.fixture(params=["masks", "flex"])
def whole_attention(request, monkeypatch):
    """What computes attention that cannot be taken apart. FlexAttention is not compiled: that needs a GPU; and torch refuses
    its gradients on a CPU, although what it computes there has them."""
    if request.param == "flex":
        from torch.nn.attention import flex_attention

        monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
        flex = FlexAttention(flex_attention.flex_attention)
        monkeypatch.setattr(FlexAttention, "on", lambda device: flex)
        # Not compiled, it traces every layout anew, and gives up after some.
        torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("whole_attention")
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("name", GROUPS)
def test_whole_attention_and_its_gradients_equal_those_by_a_mask(name, softcap, window, monkeypatch):
    torch.manual_seed(0)
    layout = SharedPrefixLayout.of(GROUPS[name])
    tensors = [torch.randn(1, heads, len(layout.positions), 16, requires_grad=True) for heads in (4, 2, 2)]
    options = {"shared_prefix": layout, "scaling": 0.3, "softcap": softcap, "sliding_window": window}
    monkeypatch.setattr(attention, "kernel_for", lambda device: None)
    ours = shared_prefix_attention(torch.nn.Identity(), *tensors, None, **options)[0][0].transpose(0, 1)
    seen = seen_by_each(GROUPS[name])
    if window is not None:
        seen &= layout.positions[:, None] - layout.positions < window
    theirs = masked_attention(*(tensor[0] for tensor in tensors), seen, 0.3, softcap)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    incoming = torch.randn_like(ours)
    gradients = (torch.autograd.grad(result, tensors, incoming) for result in (ours, theirs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("whole_attention")
@pytest.mark.parametrize("family", ["Mistral", "Gemma2"])
def test_a_sliding_window_ends_where_it_does_in_each_row(family):
    model = random_model(family)
    model.config.sliding_window = 4
    for layer in model.model.layers:
        if family == "Mistral" or layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = 4
    (ours, _), (theirs, _) = padded_and_packed(model, [(6, [3, 9])])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class LooksAhead(FlashOnCpu):
    """Lets every token see all of its row."""

    def forward(self, query, key, value, causal, scale):
        return super().forward(query, key, value, False, scale)


class ForgetsKeys(FlashOnCpu):
    """Right forward, no gradient of the keys."""

    def backward(self, *arguments):
        of_query, of_key, of_value = super().backward(*arguments)
        return of_query, torch.zeros_like(of_key), of_value


@pytest.mark.parametrize("kernel", [LooksAhead, ForgetsKeys])
def test_a_model_that_computes_otherwise_is_found_out(monkeypatch, kernel):
    model = random_model("Qwen2")
    monkeypatch.setattr(attention, "kernel_for", lambda device: kernel())
    assert "otherwise than padded ones" in str(why_not_packed(model))


@torch.no_grad()
def test_one_compiled_kernel_serves_every_layout():
    """On a CPU without gradients: what is asked here is what a compiler would be asked, and how often."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    compiled = CompileCounter()
    flex = FlexAttention(torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=compiled))
    counts = []
    for rows in ([30], [90] * 3, [20] * 2, [50] * 4, [70, 200], [1, 2, 3], [300] * 3):
        layout = SharedPrefixLayout.of([(5 + len(rows), rows)])
        states = torch.randn(2, len(layout.positions), 16)
        flex.attend(states, states, states, layout, 0.3, 7, 30.0)
        counts.append(compiled.frame_count)
    assert counts[2:] == [counts[1]] * 5, "after one block and several blocks nothing is new"


def test_a_device_without_a_kernel_computes_by_a_mask(monkeypatch):
    monkeypatch.setattr(attention, "kernel_for", lambda device: None)
    assert why_not_packed(random_model("Qwen2")) is None


def test_a_model_that_carries_a_state_along_is_found_out():
    """Mamba has no attention to take apart: what it reads of one row would reach the next."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, state_size=4)
    assert why_not_packed(transformers.MambaForCausalLM(config)) is not None


def test_the_check_leaves_the_model_as_it_was():
    model = random_model("Qwen2").train()
    before = causal_model(model).config._attn_implementation
    assert why_not_packed(model) is None
    assert model.training and causal_model(model).config._attn_implementation == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rows_without_a_layout_are_refused():
    model = random_model("Qwen2")
    before = attend_by_shared_prefix(model)
    with pytest.raises(TriageError, match="packed rows lack"):
        hidden_states(model, torch.tensor([[1, 2, 3]]))
    model.set_attn_implementation(before)
    hidden_states(model, torch.tensor([[1, 2, 3]]))


def test_the_kernel_for_gpus_gives_the_shapes_that_are_merged():
    """There is no GPU here: the operators' own rules for shapes are all that can be asked. On a GPU every run checks the
    figures themselves before it packs rows (`why_not_packed`)."""
    kernel = EfficientOnCuda()
    query, key = torch.empty(2, 4, 37, 16, device="meta"), torch.empty(2, 4, 21, 16, device="meta")
    output, sums = kernel.forward(query, key, key, False, 0.3)
    assert output.shape == query.shape and sums.shape == (2, 4, 37) and sums.dtype == torch.float32
    gradients = kernel.backward(output, query, key, key, output, sums, False, 0.3)
    assert [gradient.shape for gradient in gradients] == [query.shape, key.shape, key.shape]

"""What is trained: exactly what was asked for, in float32, on bases of every type, without touching the rest."""

from __future__ import annotations

import pytest
import torch
from modeling_helpers import FAMILIES, random_model, take_steps
from pydantic import ValidationError

from triagekit.errors import TriageError
from triagekit.modeling.adapters import AdapterSettings, adapter_state, attach_adapter, load_adapter_state
from triagekit.modeling.forward import causal_model
from triagekit.modeling.merge import merge_adapter

ROWS = [3, 5, 7]
METHODS = {
    "lora": {},
    "lora-plain-scaling": {"rslora": False},
    "dora": {"dora": True},
    "pissa": {"pissa": True},
    "hybrid": {"method": "hybrid"},
    "norms": {"method": "hybrid", "head": "none"},
    "last layer": {"layers": [1]},
    "rows": {"method": "hybrid", "head": "output_tokens"},
    "full": {"method": "full"},
}


def attached(name: str, model=None, **more):
    return attach_adapter(model or random_model("Qwen3", tied=True), AdapterSettings(r=4, **METHODS[name] | more), ROWS)


def logits(model, ids=None):
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None] if ids is None else ids).logits.float()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("dtype", "tied"),
    [(torch.float32, False), (torch.bfloat16, True), (torch.float16, True)],
    ids=["fp32", "bf16", "fp16"],
)
def test_trains_in_float32_on_any_base_and_moves_every_tensor(name, dtype, tied):
    model, report = attached(name, random_model("Qwen3", tied).to(dtype))
    before = {key: tensor.clone() for key, tensor in adapter_state(model).items() if not key.startswith("pissa")}
    assert {tensor.dtype for tensor in before.values()} == {torch.float32}
    losses = take_steps(model, steps=4)
    assert losses[-1] < losses[0]
    after = adapter_state(model)
    still = [key for key, tensor in before.items() if torch.equal(tensor, after[key])]
    assert not still
    assert report.trainable == sum(tensor.numel() for tensor in before.values())
    assert report.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if name != "full":
        assert logits(model).dtype == torch.float32 and model(input_ids=torch.tensor([[1]])).logits.dtype == dtype


@pytest.mark.parametrize("name", [name for name in METHODS if name != "full"])
def test_what_is_not_trained_stays_the_bases(name):
    base = random_model("Qwen3", tied=True)
    model, _ = attached(name, random_model("Qwen3", tied=True))
    take_steps(model)
    frozen = {
        key.replace(".base_layer", "").replace(".original_module", ""): p
        for key, p in model.named_parameters()
        if not p.requires_grad
    }
    compared = 0
    for key, parameter in base.named_parameters():
        if name == "pissa" and key.endswith("proj.weight"):
            continue
        torch.testing.assert_close(frozen[f"base_model.model.{key}"], parameter, rtol=0, atol=0)
        compared += 1
    assert compared >= 10
    torch.testing.assert_close(
        causal_model(model).get_input_embeddings().weight, base.get_input_embeddings().weight, rtol=0, atol=0
    )


@pytest.mark.parametrize("name", METHODS)
def test_starts_as_the_base(name):
    torch.testing.assert_close(
        logits(attached(name)[0]), logits(random_model("Qwen3", tied=True)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_merged_is_a_plain_model_that_says_the_same(name, tied, tmp_path):
    from transformers import AutoModelForCausalLM

    model, _ = attached(name, random_model("Qwen3", tied))
    take_steps(model)
    before = logits(model)
    embeddings = causal_model(model).get_input_embeddings().weight.clone()
    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), before, rtol=1e-4, atol=1e-5)
    assert type(merged.lm_head) is torch.nn.Linear
    assert {type(module).__module__.partition(".")[0] for module in merged.modules()} <= {"torch", "transformers"}
    own_head = name in {"hybrid", "rows"}
    assert merged.config.tie_word_embeddings is (tied and not own_head)
    torch.testing.assert_close(merged.get_input_embeddings().weight, embeddings, rtol=0, atol=0)
    merged.save_pretrained(tmp_path)
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(reopened), logits(merged))


@pytest.mark.parametrize("family", FAMILIES)
def test_hybrid_lists_every_norm_and_the_head_by_exact_name(family):
    model = random_model(family, tied=True)
    norms = {name for name, _ in model.named_parameters() if "norm" in name}
    _, report = attach_adapter(model, AdapterSettings(r=4, method="hybrid"))
    assert {item["name"] for item in report.matched if item["kind"] == "norm"} == norms
    assert [item["name"] for item in report.matched if item["kind"] == "head"] == ["lm_head.weight"]
    expected = {"Qwen2": 5, "Qwen3": 9, "Llama": 5, "Mistral": 5, "Gemma2": 9}[family]
    assert len(norms) == expected
    assert "norm" in report.describe() and f"{report.trainable:,}" in report.describe()


def test_a_module_that_only_has_norm_in_its_name_is_not_taken():
    model = random_model("Llama")
    model.model.layers[0].normal_projection = torch.nn.Linear(4, 4)
    _, report = attach_adapter(model, AdapterSettings(r=4, method="hybrid", targets=["q_proj"]))
    assert not [item for item in report.matched if "normal_projection" in item["name"]]


def test_a_tied_head_is_really_trained_and_apart_from_the_embeddings():
    model, report = attached("hybrid")
    assert [item["shape"] for item in report.matched if item["kind"] == "head"] == [[200, 32]]
    causal = causal_model(model)
    assert causal.config.tie_word_embeddings is False
    before = causal.get_output_embeddings().weight.clone()
    take_steps(model)
    assert not torch.equal(causal.get_output_embeddings().weight, before)
    assert torch.equal(
        causal.get_input_embeddings().weight, random_model("Qwen3", tied=True).get_input_embeddings().weight
    )


def test_small_steps_are_not_rounded_away_in_a_bf16_base():
    model, _ = attached("hybrid", random_model("Qwen3", True).to(torch.bfloat16))
    before = {key: tensor.clone() for key, tensor in adapter_state(model).items()}
    take_steps(model, steps=2, learning_rate=1e-6)
    for key, tensor in adapter_state(model).items():
        if "norm" in key:
            changed = (tensor != before[key]).float().mean()
            assert changed > 0.9, key
            assert torch.equal(tensor.bfloat16(), before[key].bfloat16()), "this step would vanish in bfloat16"


def test_output_tokens_change_only_their_own_columns():
    base = random_model("Qwen3", tied=True)
    model, report = attached("rows", targets=["q_proj"])
    assert [item["shape"] for item in report.matched if item["kind"] == "head"] == [[3, 32]]
    head = causal_model(model).get_output_embeddings()
    with torch.no_grad():
        head.rows += 1
        hidden = torch.randn(2, 5, 32)
        difference = (head(hidden) - base.lm_head(hidden)).abs().amax((0, 1))
    assert set(difference.nonzero().flatten().tolist()) == set(ROWS)
    assert head.weight is causal_model(model).get_input_embeddings().weight


def test_works_under_autocast():
    for name in METHODS:
        model, _ = attached(name, random_model("Qwen3", True).to(torch.bfloat16))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(input_ids=torch.arange(9)[None]).logits.float().mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_goes_back_exactly(name):
    model, _ = attached(name)
    take_steps(model)
    state = {key: tensor.clone() for key, tensor in adapter_state(model).items()}
    fresh, _ = attached(name)
    assert not torch.equal(logits(fresh), logits(model))
    load_adapter_state(fresh, state)
    assert torch.equal(logits(fresh), logits(model))
    state.pop(next(iter(state)))
    with pytest.raises(TriageError, match="1 missing"):
        load_adapter_state(fresh, state)


def test_pissa_starts_from_the_principal_parts():
    weight = random_model("Qwen3", True).model.layers[0].self_attn.q_proj.weight
    model, _ = attached("pissa")
    layer = causal_model(model).model.layers[0].self_attn.q_proj
    residual = layer.base_layer.weight
    singular = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(residual)[:4], singular[4:8], rtol=1e-4, atol=1e-5)


def test_a_pissa_run_goes_on_where_the_svd_gives_other_bits():
    model, _ = attached("pissa")
    take_steps(model)
    state = {key: tensor.clone() for key, tensor in adapter_state(model).items()}
    start = random_model("Qwen3", tied=True)
    elsewhere, _ = attached("pissa", start)
    flipped = {key: -tensor for key, tensor in elsewhere.pissa_initial.items()}
    flipped = {key: tensor * (1.01 if key.endswith("A") else 1) for key, tensor in flipped.items()}
    other, _ = attach_adapter(random_model("Qwen3", tied=True), AdapterSettings(r=4, pissa=True), None, flipped)
    load_adapter_state(other, state)
    torch.testing.assert_close(logits(other), logits(model), rtol=1e-5, atol=1e-5)
    assert torch.equal(adapter_state(other)[next(iter(state))], state[next(iter(state))])
    assert all(torch.equal(other.pissa_initial[key], model.pissa_initial[key]) for key in flipped)


def test_chosen_layers_and_norms_only_train_what_they_say():
    _, report = attached("last layer")
    assert report.matched and all(".layers.1." in item["name"] for item in report.matched)
    _, report = attached("norms")
    assert {item["kind"] for item in report.matched} == {"lora", "norm"}


def test_mistakes_are_named():
    with pytest.raises(TriageError, match=r"'q_porj' matches no linear layer.*Did you mean 'q_proj'"):
        attach_adapter(random_model("Llama"), AdapterSettings(targets=["v_proj", "q_porj"]))
    with pytest.raises(TriageError, match="matches no linear layer"):
        attach_adapter(random_model("Llama"), AdapterSettings(targets=["lm_head"]))
    with pytest.raises(TriageError, match="token ids 1 … 900, but the head has rows 0 … 199"):
        attach_adapter(random_model("Llama"), AdapterSettings(method="hybrid", head="output_tokens"), [1, 900])
    with pytest.raises(TriageError, match="needs the token ids"):
        attach_adapter(random_model("Llama"), AdapterSettings(method="hybrid", head="output_tokens"))
    with pytest.raises(TriageError, match=r"adapter\.layers names \[7\].*layers 0 … 1"):
        attach_adapter(random_model("Llama"), AdapterSettings(layers=[0, 7]))
    for wrong in (
        {"head": "output_tokens"},
        {"dora": True, "pissa": True},
        {"method": "full", "dora": True},
        {"targets": []},
        {"layers": []},
        {"layers": [1, 1]},
        {"lora_plus_ratio": 0.5},
        {"method": "full", "layers": [0]},
        {"method": "full", "lora_plus_ratio": 16},
    ):
        with pytest.raises(ValidationError):
            AdapterSettings(**wrong)

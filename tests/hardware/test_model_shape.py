"""Sizes of bases, counted from their configuration, against the models themselves."""

from __future__ import annotations

import json

import pytest
from allocator import random_model

from triagekit.errors import TriageError
from triagekit.hardware import model_shape as module
from triagekit.hardware.model_shape import model_shape, shape_of_config

# Parameters that each model's page on the hub states; tied heads counted once.
PUBLISHED = {
    "embedded": 4_591_360,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-2-2b": 2_614_341_888,
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(("base", "parameters"), PUBLISHED.items())
def test_known_bases_have_the_published_count(base, parameters):
    assert model_shape(base).parameters == parameters


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen2", {}),
        ("qwen3", {"attention_bias": True}),
        ("qwen3", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {}),
        ("mistral", {}),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}),
        ("granite", {}),
        ("gemma", {}),
        ("gemma2", {}),
        ("gemma3_text", {}),
    ],
)
def test_counts_are_those_of_the_library(family, changes, tied):
    import torch
    from torch import nn

    model = random_model(family, torch.float32, tie_word_embeddings=tied, num_hidden_layers=2, **changes)
    shape = shape_of_config("tiny", json.loads(model.config.to_json_string(use_diff=False)))
    assert shape.parameters == model.num_parameters()
    head = model.get_output_embeddings()
    linear = [item for item in model.modules() if isinstance(item, nn.Linear) and item is not head]
    assert shape.linear_parameters == sum(item.weight.numel() for item in linear)
    norms = [weight for name, weight in model.named_parameters() if "norm" in name]
    assert shape.norm_parameters == sum(weight.numel() for weight in norms)
    assert shape.largest_tensor == max(weight.numel() for weight in model.parameters())


def test_a_folder_and_the_hub_cache_are_read(tmp_path, empty_cache):
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 10,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    expected = 10 * 8 + 4 * 8 * 8 + 3 * 8 * 16 + 3 * 8
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert model_shape(str(folder)).parameters == expected
    assert model_shape(str(folder)).dtype_bytes_stored == 4
    cached = empty_cache / "hub" / "models--owner--name"
    for commit, layers in (("old", 2), ("new", 1)):
        (cached / "snapshots" / commit).mkdir(parents=True)
        text = json.dumps({**config, "num_hidden_layers": layers})
        (cached / "snapshots" / commit / "config.json").write_text(text, encoding="utf-8")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("new", encoding="utf-8")
    assert model_shape("owner/name").parameters == expected
    (cached / "refs" / "main").write_text("old", encoding="utf-8")
    assert model_shape("owner/name").layers == 2


def test_the_cache_is_found_by_the_libraries_variables(monkeypatch, tmp_path):
    assert module.hub_cache() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    assert str(module.hub_cache()) == "/elsewhere"


def test_a_multimodal_configuration_holds_its_text_part():
    inner = model_shape("google/gemma-3-1b-it")
    config = module._config("google/gemma-3-1b-it")
    assert shape_of_config("both", {"model_type": "gemma3", "text_config": config}).parameters == inner.parameters


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt2"}, "a model of type 'gpt2'"),
        ({"model_type": "qwen2_moe"}, "Did you mean 'qwen2'"),
        ({"model_type": "llama", "hidden_size": 8}, "lacks intermediate_size, num_hidden_layers"),
    ],
)
def test_what_cannot_be_counted_is_said(config, said):
    with pytest.raises(TriageError, match=said):
        shape_of_config("mine", config)


def test_an_unknown_base_says_what_to_do():
    with pytest.raises(TriageError, match=r"Did you mean 'Qwen/Qwen2.5-1.5B'.*hf download Qwen/Qwen2.5-1.6B"):
        model_shape("Qwen/Qwen2.5-1.6B")

"""The models that benchmarks measure: the embedded base, and Qwen2 of several sizes that read text by its tokenizer."""

from __future__ import annotations

from pathlib import Path

_QWEN2_45M = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 9,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
MODELS: dict[str, dict[str, int]] = {
    "embedded": {},
    "qwen2_45m": _QWEN2_45M,
    # Of the same shape, and says what the embedded base says (`grown_model.py`): where a model must have learnt something.
    "grown_45m": _QWEN2_45M,
    # The shapes of Qwen2.5, from their published configurations.
    "qwen2.5-0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "qwen2.5-1.5b": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    # For trying a benchmark out.
    "tiny": {
        "vocab_size": 8192,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
GROWN = ("grown_45m",)
ON_CPU = ("embedded", "qwen2_45m")
ON_GPU = ("qwen2.5-0.5b", "qwen2.5-1.5b")


def base_of(model: str, folder: Path, precision: str = "fp32") -> str:
    """`embedded`, or a folder with the random or grown model, written once."""
    if model == "embedded":
        return model
    place = folder / model
    if (place / "config.json").is_file():
        return str(place)
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from triagekit.modeling.base import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    torch.manual_seed(0)
    config = Qwen2Config(
        **MODELS[model],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    made = AutoModelForCausalLM.from_config(config, dtype=kind)
    if model in GROWN:
        from grown_model import grow

        from triagekit.modeling.base import load_base

        grow(load_base("embedded", precision, device="cpu"), made)
    made.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)

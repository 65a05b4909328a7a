"""The README of the base's folder, from its recipe."""

from __future__ import annotations

from typing import Any


def model_card(recipe: dict[str, Any]) -> str:
    """Markdown: what the model is, what it saw, what it can and cannot do."""
    settings = recipe["settings"]
    shape, corpus = settings["architecture"], settings["corpus"]
    last = (recipe["unseen_families_and_taxonomies"] or [{}])[-1]
    free = recipe["free_generation"]
    return f"""# triagekit embedded base

A Qwen2-architecture language model of {recipe["parameters"]:,} parameters ({shape["layers"]} layers, {shape["hidden"]}
hidden, {shape["heads"]} heads, {shape["key_value_heads"]} key/value heads, tied embeddings) with its own byte-level BPE
tokenizer of {settings["tokenizer"]["vocabulary"]} tokens and a ChatML template. Made by this project from nothing else
than this project; Apache-2.0, like the code.

It exists so that the whole way from ticket to scored archive runs on a CPU in minutes, without a hub or a network. It is
a starting point for fine-tuning on a schema; it is no chat model and knows nothing of the world. For real work on real
tickets name a larger base (`base: Qwen/Qwen2.5-0.5B-Instruct`, for example).

- Corpus: {recipe["corpus"]}
- {settings["schedule"]["steps"]} steps of {corpus["groups"]} × {corpus["rows"]} tickets under {corpus["taxonomies"]}
  taxonomies, {recipe["trained_tokens"]:,} trained tokens, {recipe["seconds"]} s on {settings["threads"]} CPU threads.
- On unseen template families under unseen taxonomies: loss of record tokens {last.get("record_loss")}, field values
  wholly right {last.get("value_accuracy")} (teacher-forced); written freely, {free["parsed"]} of {free["records"]}
  records parse and {free["valid"]} are valid.
- Weights: safetensors, float16; computed in float32 unless asked otherwise. Loss curve and settings: `recipe.json`.

Build it again: `triage base build configs/train/tiny_base.yaml --out DIR`. With the versions in `recipe.json` on a
processor of the same kind the weights come out equal; elsewhere sums are rounded in another order.
"""

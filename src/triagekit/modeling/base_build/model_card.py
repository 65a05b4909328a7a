"""The README of the base's folder, from its recipe."""

from __future__ import annotations

from typing import Any


def model_card(recipe: dict[str, Any]) -> str:
    """Markdown: what the model is, what it saw, what it can and cannot do."""
    settings = recipe["settings"]
    shape, last, free = settings["architecture"], recipe["unseen_families"][-1], recipe["free_generation"]
    stages = "; ".join(
        f"from step {stage['from_step']}: {stage['groups']} × {stage['rows']} tickets a step under {stage['taxonomies']} "
        f"taxonomies, {stage['implicit_share']:.0%} with a short instruction only"
        for stage in settings["stages"]
    )
    return f"""# triagekit embedded base

A Qwen2-architecture language model of {recipe["parameters"]:,} parameters ({shape["layers"]} layers, {shape["hidden"]}
hidden, {shape["heads"]} heads, {shape["key_value_heads"]} key/value heads, tied embeddings) with its own byte-level BPE
tokenizer of {settings["tokenizer"]["vocabulary"]} tokens and a ChatML template. Made by this project from nothing else
than this project; Apache-2.0, like the code.

It exists so that the whole way from ticket to scored archive runs on a CPU in minutes, without a hub or a network. It is
a starting point for fine-tuning on a schema; it is no chat model and knows nothing of the world. For real work on real
tickets name a larger base (`base: Qwen/Qwen2.5-0.5B-Instruct`, for example).

- Corpus: {recipe["corpus"]}
- {settings["schedule"]["steps"]} steps ({stages}), {recipe["trained_tokens"]:,} trained tokens, {recipe["seconds"]} s on
  {settings["threads"]} threads of a busy CPU.
- On template families that training never saw, field values wholly right (teacher-forced): {_share(last["known_taxonomies"])}
  under the taxonomies of the last stage, {_share(last["unseen_taxonomies"])} under taxonomies that it never saw either.
  It has to be fine-tuned on a schema before it fills one. Written freely under its own taxonomies, {free["parsed"]:.0%}
  of {free["records"]} records parse as JSON and {free["valid"]:.0%} are valid.
- Weights: safetensors, float16; computed in float32 unless asked otherwise. Loss curve and settings: `recipe.json`.

Build it again: `triage base build configs/train/tiny_base.yaml --out DIR`. With the versions in `recipe.json` on a
processor of the same kind the weights come out equal; elsewhere sums are rounded in another order.
"""


def _share(measured: dict[str, float]) -> str:
    return f"{measured['value_accuracy']:.1%}"

"""The whole recipe: tokenizer → pre-training → folder with float16 weights, recipe, model card."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2ForCausalLM

from triagekit import __version__
from triagekit.files.atomic import atomic_folder, write_json, write_text
from triagekit.modeling.base_build.check import check_base
from triagekit.modeling.base_build.generation import parse_share
from triagekit.modeling.base_build.model_card import model_card
from triagekit.modeling.base_build.pretraining import CHECKPOINT, pretrain
from triagekit.modeling.base_build.settings import TinyBaseSettings
from triagekit.modeling.base_build.stream import PretrainingStream
from triagekit.modeling.base_build.tokenizer import build_tokenizer
from triagekit.progress import Progress

CORPUS = (
    "Tickets of the project's generator (training template families only) under made-up taxonomies drawn from "
    "taxonomy_words.yaml; each group of tickets stands behind one prompt of the project's own template. No schema that "
    "ships is among them, and no real ticket. Loss on record tokens, and with a smaller weight on ticket tokens."
)


def build_base(settings: TinyBaseSettings, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Build the base into `out` and return its recipe.json. The same call after a kill goes on from its checkpoint.

    Raises TriageError when the finished folder does not pass its own check.
    """
    work = out.with_name(f"{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(settings)
    model, history = pretrain(tokenizer, settings, work, progress)
    recipe = export(model, tokenizer, settings, history, out)
    (work / CHECKPOINT).unlink(missing_ok=True)
    work.rmdir()
    return recipe


def export(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    settings: TinyBaseSettings,
    history: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Write the folder in one step; the check runs on the folder as written, before it takes its place."""
    with torch.no_grad():
        # What is written is half precision, so what is measured must be, too.
        for weight in model.parameters():
            weight.copy_(weight.half().float())
    stream = PretrainingStream(tokenizer, settings)
    recipe = {
        "name": "triagekit embedded base",
        "triagekit": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": settings.model_dump(mode="json"),
        "corpus": CORPUS,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds": round(history["seconds"]),
        "trained_tokens": history["tokens"],
        "curve": history["curve"],
        "unseen_families": history["evaluations"],
        "free_generation": parse_share(model, tokenizer, stream, settings),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "versions": _versions(),
    }
    with atomic_folder(out) as folder:
        weights = {name: weight.detach().half().contiguous() for name, weight in model.named_parameters()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        # The file's type is half precision; the configuration says float32 so that nobody computes in half by accident.
        model.config.dtype = torch.float32
        model.config.architectures = ["Qwen2ForCausalLM"]
        model.config.save_pretrained(folder)
        GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "recipe.json", recipe)
        write_text(folder / "README.md", model_card(recipe))
        for path in folder.iterdir():
            path.chmod(0o644)
        check_base(folder)
    return recipe


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")}

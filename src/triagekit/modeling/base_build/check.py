"""Is a base folder whole? Files, size, parameter count, fingerprint, tokenizer round trip, one forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from triagekit.errors import Problem, ProblemsError

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "recipe.json",
    "README.md",
)
MOST_BYTES = 15_000_000
_PROBE = 'VPN fails since 9:15 — ¿pueden ayudarme? メール 😀\n{"a":"b"} <|im_end|>'


def check_base(folder: Path) -> dict[str, Any]:
    """Facts about the base in `folder`: {"folder", "bytes", "parameters", "vocabulary", "fingerprint", "loss"}.

    Raises ProblemsError with everything that is wrong: missing files, too large, weights that do not fit the
    configuration or are not finite, text that does not come back from the tokenizer.
    """
    problems = [Problem(str(folder / name), "is missing.") for name in FILES if not (folder / name).is_file()]
    if problems:
        raise ProblemsError(f"The base in {folder} is not whole:", problems)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        problems.append(Problem(str(folder), f"holds {size:,} bytes; at most {MOST_BYTES:,} may be shipped."))
    facts, more = _check_model(folder)
    if problems + more:
        raise ProblemsError(f"The base in {folder} is not sound:", problems + more)
    return {"folder": str(folder), "bytes": size, **facts}


def _check_model(folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    import torch

    from triagekit.modeling.base import base_fingerprint, load_base, load_tokenizer

    problems: list[Problem] = []
    tokenizer = load_tokenizer(str(folder))
    model = load_base(str(folder), precision="fp32", device="cpu")
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    parameters = sum(weight.numel() for weight in model.parameters())
    if parameters != recipe["parameters"]:
        problems.append(
            Problem(str(folder / "model.safetensors"), f"{parameters:,} parameters, recipe: {recipe['parameters']:,}.")
        )
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != _PROBE:
        problems.append(Problem(str(folder / "tokenizer.json"), f"text comes back changed: {back!r}."))
    if len(tokenizer) > model.config.vocab_size:
        problems.append(Problem(str(folder / "config.json"), f"{len(tokenizer)} tokens, but fewer embeddings."))
    sample = torch.tensor([ids])
    with torch.no_grad():
        loss = float(model(input_ids=sample, labels=sample).loss)
    if not loss < 100:
        problems.append(Problem(str(folder / "model.safetensors"), f"a forward pass gives the loss {loss}."))
    facts = {
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "fingerprint": base_fingerprint(str(folder)),
        "loss": round(loss, 4),
    }
    return facts, problems

"""`triage export adapter`: a folder that PEFT alone opens to the same logits, and triagekit too.

What triagekit keeps in files of its own is turned into PEFT's terms. PiSSA: the frozen part is W − s·B₀A₀, so
W − s·B₀A₀ + s·BA = W + [s·B, −s·B₀]·[A; A₀], a plain low-rank update of twice the rank (Meng et al. 2024, arXiv 2404.02948,
appendix on conversion). Trained rows of the head: the whole head with these rows in place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from triagekit import __version__
from triagekit.errors import TriageError
from triagekit.export.comparison import largest_difference, last_logits
from triagekit.export.merged_folder import FLOAT32_ROUNDING
from triagekit.export.model_card import adapter_card
from triagekit.export.public import public_base, public_card
from triagekit.export.source import RECORD, ExportSource, check_target, open_run
from triagekit.files.atomic import atomic_folder, write_json, write_text
from triagekit.modeling.adapter_files import (
    OUTPUT_ROWS,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    PISSA_INITIAL,
    read_tensors,
    weights_fingerprint,
    write_tensors,
)
from triagekit.modeling.adapter_folder import CARD, SCHEMA, LoadedAdapter, load_adapter, open_on_fresh_base
from triagekit.modeling.adapters import AdapterSettings
from triagekit.modeling.base import load_base
from triagekit.modeling.output_head import head_name

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "adapter"
_WRAPPED = "base_model.model."


def export_adapter(run: Path, out: Path, base: str | None = None, device: str | None = None) -> dict[str, Any]:
    """Write the adapter of `run` to the folder `out` in PEFT's format; returns its export.json.

    The folder is opened by PEFT alone on a fresh float32 base, and its logits on sample prompts are compared with the
    run's. Raises TriageError when they differ by more than rounding, and for `method: full`, which is no adapter.
    """
    source = open_run(run)
    settings = AdapterSettings.model_validate(source.card["adapter"])
    if settings.method == "full":
        raise TriageError(
            f"{source.name} has trained every weight (method: full), which PEFT has no adapter format for. "
            f"Export the whole model: triage export merge {run} --out DIR"
        )
    check_target(out, KIND)
    place = base or str(source.card["base"])
    loaded = load_adapter(source.run.adapter, base, "fp32", device)
    if source.card.get("quantization"):
        loaded.model = open_on_fresh_base(source.run.adapter, source.card, place, "fp32", None, device)
    expected = [last_logits(loaded.model, sample["ids"]) for sample in loaded.card["parity"]]
    with atomic_folder(out) as temporary:
        changes = _write(source, loaded, settings, temporary)
        found = _logits_by_peft_alone(loaded, temporary, place, device)
        error = largest_difference(expected, found)
        scale = max(1.0, *(float(each.abs().max()) for each in expected))
        if not error <= FLOAT32_ROUNDING * scale:
            raise TriageError(
                f"PEFT alone gives other logits than the run, by up to {error:.3g} (largest {scale:.3g}): this adapter "
                f"cannot be said in PEFT's terms. Export the whole model: triage export merge {run} --out DIR"
            )
        record = {
            "kind": KIND,
            "run": source.name,
            "triagekit": __version__,
            "adapter_fingerprint": source.card["fingerprint"],
            "fingerprint": weights_fingerprint(temporary),
            "base": public_base(str(source.card["base"])),
            "base_fingerprint": source.card["base_fingerprint"],
            "schema_fingerprint": source.card["schema_fingerprint"],
            "template_fingerprint": source.card["template_fingerprint"],
            "converted": changes,
            "check": {
                "by": "PeftModel.from_pretrained",
                "computed_in": "fp32",
                "max_logit": error,
                "largest_logit": scale,
            },
        }
        write_json(temporary / RECORD, record)
    return record


def _write(source: ExportSource, loaded: LoadedAdapter, settings: AdapterSettings, folder: Path) -> list[str]:
    """All files but export.json; returns in words what was converted."""
    adapter = source.run.adapter
    weights = read_tensors(adapter / PEFT_WEIGHTS)
    config = json.loads((adapter / PEFT_CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = public_base(str(source.card["base"]))
    changes, own = [], settings.model_dump(mode="json")
    if settings.pissa:
        weights = _plain_update(weights, read_tensors(adapter / PISSA_INITIAL), settings.scaling)
        rank = 2 * settings.r
        config |= {"init_lora_weights": True, "r": rank, "lora_alpha": rank, "use_rslora": False}
        own |= {"pissa": False, "r": rank, "alpha": rank, "rslora": False}
        changes.append(f"PiSSA of rank {settings.r} to a plain update of rank {rank} of the original base")
    if (adapter / OUTPUT_ROWS).is_file():
        name = head_name(loaded.model.get_base_model())
        weights[f"{_WRAPPED}{name}.weight"] = _whole_head(loaded, read_tensors(adapter / OUTPUT_ROWS))
        config["modules_to_save"] = sorted([*(config.get("modules_to_save") or []), name])
        own["head"] = "all"
        changes.append("trained rows of the output head to the whole head")
    write_tensors(folder / PEFT_WEIGHTS, weights)
    write_json(folder / PEFT_CONFIG, config)
    card = public_card(source.card, loaded.segments)
    card |= {"adapter": own, "fingerprint": weights_fingerprint(folder)}
    if changes:
        card |= {"output_token_ids": None, "converted_from": source.card["fingerprint"]}
    write_json(folder / CARD, card)
    write_text(folder / SCHEMA, (adapter / SCHEMA).read_text(encoding="utf-8"))
    write_text(folder / "README.md", adapter_card(source))
    return changes


def _plain_update(
    weights: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor], scaling: float
) -> dict[str, torch.Tensor]:
    """PEFT's tensors with A and B of twice the rank, to be scaled by 1."""
    plain = dict(weights)
    for name, tensor in weights.items():
        module, _, part = name.removesuffix(".weight").rpartition(".")
        start = initial.get(f"{module}.{part.removeprefix('lora_')}")
        if start is None:
            continue
        plain[name] = torch.cat([tensor, start], 0) if part == "lora_A" else torch.cat([tensor, -start], 1).mul(scaling)
    return plain


def _whole_head(loaded: LoadedAdapter, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Weight (V, H), float32, of the head with the trained rows in place."""
    weight: torch.Tensor = loaded.model.get_base_model().get_output_embeddings().weight.detach().float().cpu().clone()
    weight[stored["token_ids"]] = stored["rows"].float()
    return weight


def _logits_by_peft_alone(loaded: LoadedAdapter, folder: Path, base: str, device: str | None) -> list[torch.Tensor]:
    from peft import PeftModel

    samples = loaded.card["parity"]
    loaded.model = None
    model = PeftModel.from_pretrained(load_base(base, "fp32", None, device), str(folder)).eval()
    return [last_logits(model, sample["ids"]) for sample in samples]

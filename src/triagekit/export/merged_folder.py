"""`triage export merge`: the adapter folded into the plain base, saved as an ordinary model, opened again, compared."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from triagekit import __version__
from triagekit.data.rows import Row
from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import open_data
from triagekit.export.comparison import Measurement, difference, largest_difference, last_logits, measure
from triagekit.export.model_card import merged_card
from triagekit.export.public import public_base, public_card
from triagekit.export.source import RECORD, ExportSource, check_target, open_run
from triagekit.files.atomic import atomic_folder, write_json, write_text
from triagekit.modeling.adapter_files import weights_fingerprint
from triagekit.modeling.adapter_folder import CARD, SCHEMA, LoadedAdapter, load_adapter, open_on_fresh_base
from triagekit.modeling.base import base_fingerprint, base_folder, load_base, quiet_shards
from triagekit.modeling.merge import merge_adapter
from triagekit.progress import Progress, SilentProgress

KIND = "merged"
CHECK_ROWS = 64
FLOAT32_ROUNDING = 1e-4
"""Of the largest logit: what another order of float32 sums may change. A merge that changes more is wrong."""
WORSE_BY = 0.01
"""A rise of the loss by this share, or this share fewer tickets with all label fields right, is said aloud."""
FIELD_WORSE_BY = 0.05
"""The same for a single field, which a ticket more or less moves by more."""

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_DISK_TYPES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_merged(
    run: Path,
    out: Path,
    dtype: str | None = None,
    check_rows: int = CHECK_ROWS,
    data: Path | None = None,
    base: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the merged model of `run` to the folder `out`; returns its export.json.

    Computed in float32 on the un-quantised base whatever the run was trained on, saved as `dtype` ('fp32', 'fp16',
    'bf16'; None: what most of the base's weights are stored in). Compared on `check_rows` tickets of the validation
    split, where the run's data is found, else on sample prompts alone; the record says which.
    Raises TriageError, leaving nothing at `out`, when the merged model's float32 logits are not the adapter's, when the
    files are not what is in memory, or when weights do not fit into `dtype`.
    """
    source = open_run(run)
    check_target(out, KIND)
    progress = progress or SilentProgress()
    rows, why_not = check_tickets(source, check_rows, data)
    dtype = dtype or stored_dtype(base or str(source.card["base"]))
    loaded, as_trained = _on_plain_base(source, base, device, rows, progress)
    before = measure(loaded, rows, progress)
    quantisation = source.card.get("quantization")
    loaded.model = merge_adapter(loaded.model)
    merging_error = check_merge(loaded, before)
    save_as(loaded.model, dtype)
    with atomic_folder(out) as temporary:
        _write_model(loaded, temporary, base or str(source.card["base"]))
        write_text(temporary / SCHEMA, (source.run.adapter / SCHEMA).read_text(encoding="utf-8"))
        card = _card(source, loaded, temporary, dtype)
        write_json(temporary / CARD, card)
        after = _reopened(loaded, temporary, rows, progress, device)
        record = {
            "kind": KIND,
            "run": source.name,
            "dtype": dtype,
            "triagekit": __version__,
            "adapter_fingerprint": source.card["fingerprint"],
            "base": public_base(str(source.card["base"])),
            "base_fingerprint": source.card["base_fingerprint"],
            "schema_fingerprint": source.card["schema_fingerprint"],
            "template_fingerprint": source.card["template_fingerprint"],
            "fingerprint": card["base_fingerprint"],
            "check": {
                "split": "val" if rows else None,
                "rows": len(rows),
                "not_on_tickets_because": why_not,
                "samples": len(source.card["parity"]),
                "computed_in": "fp32",
                "merging_error": merging_error,
                "as_trained": {"quantization": quantisation, **as_trained.figures()} if as_trained else None,
                "adapter_on_base": before.figures(),
                "merged": after.figures(),
                "difference": difference(before, after),
                "difference_to_as_trained": difference(as_trained, after) if as_trained else None,
            },
        }
        record["warnings"] = _warnings(record)
        write_text(temporary / "README.md", merged_card(source, record))
        write_json(temporary / RECORD, record)
    return record


def check_tickets(source: ExportSource, count: int, data: Path | None) -> tuple[list[Row], str | None]:
    """The first `count` tickets of the validation split, or none and the reason why.

    Raises TriageError when `data` was named and is not the run's.
    """
    try:
        rows = open_data(source.run, source.card, data).rows("val")[:count]
    except TriageError as error:
        if data is not None:
            raise
        return [], str(error)
    return rows, None if rows else "the validation split has no rows"


def stored_dtype(base: str) -> str:
    """Name of the number type that most weights of `base` are stored in."""
    from safetensors import safe_open

    counts: Counter[str] = Counter()
    for path in base_folder(base).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                part = file.get_slice(name)
                counts[part.get_dtype()] += torch.Size(part.get_shape()).numel()
    kind = counts.most_common(1)[0][0] if counts else "F32"
    if kind not in _DISK_TYPES:
        raise TriageError(f"base {base} stores its weights as {kind}. Say what the merged ones shall be: --dtype bf16")
    return _DISK_TYPES[kind]


def check_merge(loaded: LoadedAdapter, before: Measurement) -> float:
    """Largest difference of the merged model's float32 logits from the adapter's on the samples.

    Raises TriageError when it is more than rounding.
    """
    after = [last_logits(loaded.model, sample["ids"]) for sample in loaded.card["parity"]]
    error = largest_difference(before.logits, after)
    scale = max(1.0, *(float(each.abs().max()) for each in before.logits))
    if not error <= FLOAT32_ROUNDING * scale:
        raise TriageError(
            f"The merged model is not the adapter on its base: logits differ by up to {error:.3g} (largest logit "
            f"{scale:.3g}), where rounding explains {FLOAT32_ROUNDING * scale:.2g}. Nothing was written. Please report "
            "the base's architecture and the adapter's settings."
        )
    return error


def save_as(model: Any, dtype: str) -> None:
    """Cast `model` in place. Raises TriageError for weights that the type cannot hold."""
    model.to(TYPES[dtype])
    overflown = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if overflown:
        raise TriageError(
            f"{len(overflown)} tensors hold numbers too large for {dtype}, first {overflown[0]}. "
            "Save as --dtype bf16 or --dtype fp32."
        )
    for config in (model.config, model.config.get_text_config()):
        config.dtype = TYPES[dtype]


def copy_tokenizer(base: str, folder: Path) -> None:
    """The base's tokenizer files, byte for byte: saving one anew may spell it in another way."""
    source = base_folder(base)
    folder.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _on_plain_base(
    source: ExportSource, base: str | None, device: str | None, rows: list[Row], progress: Progress
) -> tuple[LoadedAdapter, Measurement | None]:
    """The adapter on the plain base in float32; before that, where it was trained on a quantised one, how it did there."""
    folder, card = source.run.adapter, source.card
    if not card.get("quantization"):
        return load_adapter(folder, base, "fp32", device), None
    loaded = load_adapter(folder, base, str(card["precision"]), device)
    as_trained = measure(loaded, rows, progress)
    loaded.model = None
    loaded.model = open_on_fresh_base(folder, card, base or str(card["base"]), "fp32", None, device)
    return loaded, as_trained


def _write_model(loaded: LoadedAdapter, folder: Path, base: str) -> None:
    from transformers import GenerationConfig

    # The configuration would name the place that the base was loaded from.
    loaded.model.config._name_or_path = ""
    # A base's own habits (sampling, penalties for repeating itself) spoil records, and its end may not be a turn's end.
    ends = dict.fromkeys(
        each for each in (loaded.segments.end_ids[0], loaded.tokenizer.eos_token_id) if each is not None
    )
    loaded.model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        bos_token_id=loaded.tokenizer.bos_token_id,
        eos_token_id=list(ends),
        pad_token_id=loaded.tokenizer.pad_token_id,
    )
    with quiet_shards():
        loaded.model.save_pretrained(folder)
    copy_tokenizer(base, folder)
    for path in folder.iterdir():
        # safetensors makes private files; whoever shares the folder must be able to read them.
        path.chmod(folder.stat().st_mode & 0o666)


def _card(source: ExportSource, loaded: LoadedAdapter, folder: Path, dtype: str) -> dict[str, Any]:
    return {
        **public_card(source.card, loaded.segments),
        "base": ".",
        "base_fingerprint": base_fingerprint(str(folder)),
        "fingerprint": weights_fingerprint(folder),
        "precision": dtype,
        "quantization": None,
        "output_token_ids": None,
        "merged": {
            "run": source.name,
            "adapter_fingerprint": source.card["fingerprint"],
            "base": public_base(str(source.card["base"])),
            "base_fingerprint": source.card["base_fingerprint"],
        },
    }


def _reopened(
    loaded: LoadedAdapter, folder: Path, rows: list[Row], progress: Progress, device: str | None
) -> Measurement:
    """Measure the model as its files hold it. Raises TriageError when a tensor is not the one in memory."""
    written = load_base(str(folder), "fp32", None, device)
    own = loaded.model.state_dict()
    wrong = [
        name
        for name, tensor in written.state_dict().items()
        if name not in own or not torch.equal(tensor.cpu(), own[name].float().cpu())
    ]
    if wrong or len(own) != len(written.state_dict()):
        raise TriageError(f"The merged model reopened from its files is not the one in memory: {wrong[:3]} differ.")
    loaded.model = written
    return measure(loaded, rows, progress)


def _warnings(record: dict[str, Any]) -> list[str]:
    check = record["check"]
    found = []
    if check["rows"] == 0:
        found.append(
            f"Not compared on tickets ({check['not_on_tickets_because']}); only the logits of {check['samples']} sample "
            "prompts were. Name the run's data with --data to compare loss and fields."
        )
        return found
    if _worse(check["adapter_on_base"], check["merged"]):
        found.append(
            f"Rounding the merged weights to {record['dtype']} makes the model worse on {check['rows']} tickets. "
            "Export again with --dtype fp32 (or bf16, fp16) and compare."
        )
    if check["as_trained"] and _worse(check["as_trained"], check["merged"]):
        found.append(
            "The adapter was trained beside quantised weights and does worse beside the plain ones, which is also where "
            "triage evaluate, predict and score use it. Training on the un-quantised base avoids that."
        )
    return found


def _worse(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return bool(
        after["loss"] > before["loss"] * (1 + WORSE_BY)
        or after["all_label_fields"] < before["all_label_fields"] - WORSE_BY
        or any(after["fields"][name] < share - FIELD_WORSE_BY for name, share in before["fields"].items())
    )

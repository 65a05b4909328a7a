"""`triage export gguf`: one file for llama.cpp and what is built on it, written and read back by the library `gguf`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from triagekit import __version__
from triagekit.errors import TriageError
from triagekit.export.comparison import Measurement, largest_difference, last_logits, next_token_agreement
from triagekit.export.gguf_model import GgufTensor, architecture, tensors, write_figures
from triagekit.export.gguf_tokenizer import GgufTokenizer, read_tokenizer
from triagekit.export.merged_folder import check_merge
from triagekit.export.public import MADE_UP_TICKETS, public_base
from triagekit.export.source import is_merged, open_run
from triagekit.files.atomic import atomic_path, write_json
from triagekit.files.fingerprint import sha256_file
from triagekit.modeling.adapter_folder import LoadedAdapter, load_adapter, open_on_fresh_base
from triagekit.modeling.merge import merge_adapter
from triagekit.progress import Progress, SilentProgress
from triagekit.schema.json_schema import json_schema

if TYPE_CHECKING:
    import numpy as np

TYPES = ("f32", "f16", "q8_0")
_BLOCK = 32
"""Weights that share one scale in q8_0 (ggml's block); rows of another length are kept in f16."""


def export_gguf(
    run: Path,
    out: Path,
    kind: str = "f16",
    base: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the merged model of `run` (or a folder made by `triage export merge`) to the file `out`; returns the record
    that is written beside it as `<out>.json`.

    `kind`: 'f32', 'f16' or 'q8_0' for matrices; vectors are f32. The file is read back before it takes its place: every
    tensor must be the model's within what its type rounds, and the logits of a model filled with them are compared.
    Raises TriageError for families, tokenizers and numbers that the format or the type does not hold.
    """
    _need_library()
    if out.suffix != ".gguf":
        raise TriageError(f"--out {out}: the file ends in .gguf, e.g. {out.stem or 'model'}-{kind}.gguf")
    if out.is_dir():
        raise TriageError(f"--out {out} is a folder. Give a file name, e.g. {out / 'model'}-{kind}.gguf")
    loaded, name = _merged_model(run, base, device)
    architecture(loaded.model.config)
    tokenizer = read_tokenizer(loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0])
    progress = progress or SilentProgress()
    samples = loaded.segments.parity_samples(MADE_UP_TICKETS)
    before = [last_logits(loaded.model, sample["ids"]) for sample in samples]
    with atomic_path(out) as temporary:
        kept = _write(loaded, tokenizer, temporary, name, kind, progress)
        rounding = read_back(loaded.model, temporary)
        after = [last_logits(loaded.model, sample["ids"]) for sample in samples]
    origin = loaded.card.get("merged") or loaded.card
    record = {
        "kind": "gguf",
        "run": name,
        "file": out.name,
        "type": kind,
        "bytes": out.stat().st_size,
        "sha256": sha256_file(out),
        "triagekit": __version__,
        "architecture": loaded.model.config.model_type,
        "pre_tokenizer": tokenizer.pre,
        "tensors": sum(kept.values()),
        "tensors_by_type": kept,
        "adapter_fingerprint": origin.get("adapter_fingerprint", origin.get("fingerprint")),
        "base": public_base(str(origin["base"])),
        "base_fingerprint": origin["base_fingerprint"],
        "schema_fingerprint": loaded.card["schema_fingerprint"],
        "template_fingerprint": loaded.card["template_fingerprint"],
        "check": {
            "by": "the reader of the library gguf",
            "largest_rounding": rounding,
            "samples": len(samples),
            "max_logit": largest_difference(before, after),
            "largest_logit": max(float(each.abs().max()) for each in before),
            "same_next_token": next_token_agreement(before, after),
        },
    }
    write_json(out.with_name(f"{out.name}.json"), record)
    return record


@torch.no_grad()
def read_back(model: Any, path: Path) -> float:
    """Fill `model` with the tensors of the file; returns the largest relative rounding, of a tensor's largest number.

    Raises TriageError when a tensor is missing, unknown, or further from the model's than its type explains.
    """
    from gguf import GGUFReader, dequantize

    stored = {str(tensor.name): tensor for tensor in GGUFReader(path).tensors}
    largest, seen = 0.0, set()
    for tensor in tensors(model):
        found = stored.get(tensor.name)
        if found is None:
            raise TriageError(f"The written file lacks {tensor.name}; nothing was exported.")
        seen.add(tensor.name)
        weight = tensor.weight.detach().float().cpu()
        values = tensor.back(dequantize(found.data, found.tensor_type))
        error = (values - weight).abs()
        if not bool((error <= _bound(weight, found.tensor_type.name)).all()):
            raise TriageError(
                f"{tensor.name} was read back with an error of {float(error.max()):.3g}, more than "
                f"{found.tensor_type.name} explains; nothing was exported."
            )
        largest = max(largest, float(error.max()) / max(float(weight.abs().max()), 1e-30))
        if tensor.source is not None:
            tensor.weight.copy_(values)
    if unknown := stored.keys() - seen:
        raise TriageError(f"The written file holds tensors that the model has not: {sorted(unknown)[:3]}.")
    return largest


def _merged_model(run: Path, base: str | None, device: str | None) -> tuple[LoadedAdapter, str]:
    """The plain model in float32, and the run's name."""
    if is_merged(run):
        loaded = load_adapter(run, base, "fp32", device)
        return loaded, str(loaded.card["merged"]["run"])
    source = open_run(run)
    loaded = load_adapter(source.run.adapter, base, "fp32", device)
    if source.card.get("quantization"):
        place = base or str(source.card["base"])
        loaded.model = open_on_fresh_base(source.run.adapter, source.card, place, "fp32", None, device)
    before = Measurement([last_logits(loaded.model, sample["ids"]) for sample in loaded.card["parity"]])
    loaded.model = merge_adapter(loaded.model)
    check_merge(loaded, before)
    return loaded, source.name


def _write(
    loaded: LoadedAdapter, tokenizer: GgufTokenizer, path: Path, name: str, kind: str, progress: Progress
) -> dict[str, int]:
    """The whole file, one tensor in memory at a time; returns how many tensors have each type."""
    import gguf

    config = loaded.model.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_name(name)
    file_type = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[kind]
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_figures(writer, config)
    _write_tokenizer(writer, tokenizer, loaded.segments.end_ids[0])
    _write_prompt(writer, loaded)
    kept: dict[str, int] = {}
    listed = list(tensors(loaded.model))
    for tensor in listed:
        chosen = _type_of(tensor, kind)
        kept[chosen.lower()] = kept.get(chosen.lower(), 0) + 1
        data = _stored(tensor, chosen)
        # With the bytes' shape and type, the library finds the shape that they stand for.
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, gguf.GGMLQuantizationType[chosen])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    progress.start("write", len(listed), "tensors")
    for tensor in listed:
        writer.write_tensor_data(_stored(tensor, _type_of(tensor, kind)))
        progress.advance()
    progress.finish()
    writer.close()
    return kept


def _write_tokenizer(writer: Any, tokenizer: GgufTokenizer, end_of_turn: int) -> None:
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores is None:
        writer.add_token_merges(tokenizer.merges)
    else:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.space_prefix)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_eot_token_id(end_of_turn)
    for number, write in (
        (tokenizer.bos, writer.add_bos_token_id),
        (tokenizer.eos, writer.add_eos_token_id),
        (tokenizer.pad, writer.add_pad_token_id),
    ):
        if number is not None:
            write(number)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _write_prompt(writer: Any, loaded: LoadedAdapter) -> None:
    """What the file is for: the text around the ticket and the record's JSON Schema, for programs that ask."""
    template = loaded.segments.template
    writer.add_string("triagekit.prompt.prefix", template.prefix_text(0))
    writer.add_string("triagekit.prompt.suffix", template.suffix_text)
    writer.add_string("triagekit.schema.name", loaded.schema.name)
    writer.add_string("triagekit.schema.json_schema", json.dumps(_constraint(loaded), ensure_ascii=False))
    for key in ("schema_fingerprint", "template_fingerprint", "fingerprint"):
        writer.add_string(f"triagekit.{'adapter_fingerprint' if key == 'fingerprint' else key}", str(loaded.card[key]))


def _constraint(loaded: LoadedAdapter) -> dict[str, Any]:
    """The JSON Schema without what llama.cpp's constraints do not know: they drop a whole schema for one such word.

    Left to the model is which value of a dependent field goes with which parent, and that no tag comes twice.
    """
    plain = {key: value for key, value in json_schema(loaded.schema).items() if key != "allOf"}
    fields = {
        name: {key: value for key, value in field.items() if key != "uniqueItems"}
        for name, field in plain["properties"].items()
    }
    return {**plain, "properties": fields}


def _type_of(tensor: GgufTensor, kind: str) -> str:
    if tensor.weight.dim() < 2 or kind == "f32":
        return "F32"
    return "Q8_0" if kind == "q8_0" and tensor.weight.shape[-1] % _BLOCK == 0 else "F16"


def _stored(tensor: GgufTensor, chosen: str) -> np.ndarray:
    """The tensor's bytes. Raises TriageError for numbers that 16-bit floats cannot hold."""
    import numpy as np
    from gguf import GGMLQuantizationType, quantize

    values = tensor.values()
    largest = float(np.abs(values).max())
    if chosen == "F16" and not largest < float(np.finfo(np.float16).max):
        raise TriageError(f"{tensor.name} holds {largest:.3g}, too large for f16. Export with --type f32.")
    data: np.ndarray = quantize(values, GGMLQuantizationType[chosen])
    return data


def _bound(weight: torch.Tensor, chosen: str) -> torch.Tensor:
    """Largest error that the type explains, for every number.

    f16: half of a unit in the last of 11 binary digits, below 2⁻¹⁴ half of 2⁻²⁴. q8_0: half a step of the block's scale,
    its largest number over 127, and 127 times what is lost by keeping the scale in f16.
    """
    if chosen == "F32":
        return torch.zeros_like(weight)
    if chosen == "F16":
        return weight.abs() * 2.0**-11 + 2.0**-25
    blocks = weight.abs().reshape(-1, _BLOCK)
    scale = blocks.amax(-1, keepdim=True) / 127
    bound = scale * 0.5 + 127 * (scale * 2.0**-11 + 2.0**-25)
    return (bound * (1 + 1e-5)).expand_as(blocks).reshape(weight.shape)


def _need_library() -> None:
    if find_spec("gguf") is None:
        raise TriageError("GGUF export needs the library gguf: pip install 'triagekit[export]', or pip install gguf")

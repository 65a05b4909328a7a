"""The weights files of an adapter folder: the same weights give the same bytes, and only exact fits are read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_files
from triagekit.modeling.forward import causal_model
from triagekit.modeling.output_head import has_output_tokens

if TYPE_CHECKING:
    import torch

PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FULL_WEIGHTS = "model.safetensors"
OUTPUT_ROWS = "output_rows.safetensors"
PISSA_INITIAL = "pissa_initial.safetensors"
WEIGHTS_FILES = (PEFT_WEIGHTS, FULL_WEIGHTS, OUTPUT_ROWS, PISSA_INITIAL)


def weights_fingerprint(folder: Path) -> str:
    """Content of all weights files of the folder."""
    return fingerprint_files(folder, WEIGHTS_FILES)


def write_weights(model: Any, folder: Path, base: str) -> None:
    """Write the trained weights of `model` (from attach_adapter) into `folder`.

    LoRA and hybrid take PEFT's own format (adapter_model.safetensors, adapter_config.json); trained head rows and
    PiSSA's start stand in files of their own; a fully trained model is model.safetensors.
    """
    if not hasattr(model, "peft_config"):
        write_tensors(folder / FULL_WEIGHTS, _whole_state(model))
        return
    write_tensors(folder / PEFT_WEIGHTS, _peft_state(model))
    write_json(folder / PEFT_CONFIG, _peft_config(model, base))
    head = causal_model(model).get_output_embeddings()
    if has_output_tokens(causal_model(model)):
        write_tensors(folder / OUTPUT_ROWS, {"rows": head.rows.detach(), "token_ids": head.token_ids})
    initial = getattr(model, "pissa_initial", None)
    if initial:
        write_tensors(folder / PISSA_INITIAL, initial)


def read_weights(model: Any, folder: Path) -> None:
    """Copy the folder's weights into an equally attached `model`.

    Raises TriageError when the names or shapes of the tensors are not exactly those of the model.
    """
    import torch

    own = _peft_state(model) if hasattr(model, "peft_config") else _whole_state(model)
    name = PEFT_WEIGHTS if hasattr(model, "peft_config") else FULL_WEIGHTS
    with torch.no_grad():
        _copy(own, read_tensors(folder / name), folder / name)
        head = causal_model(model).get_output_embeddings()
        if has_output_tokens(causal_model(model)):
            stored = read_tensors(folder / OUTPUT_ROWS)
            _copy({"rows": head.rows, "token_ids": head.token_ids}, stored, folder / OUTPUT_ROWS)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one safetensors file. Raises TriageError for a file that is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise TriageError(f"{path} is missing: the adapter folder is not complete. Train again, or copy it again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TriageError(f"{path} is damaged ({path.stat().st_size} bytes): {error}") from None


def _copy(own: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor], path: Path) -> None:
    missing, extra = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    wrong = [
        f"{name} {list(stored[name].shape)} instead of {list(own[name].shape)}"
        for name in sorted(own.keys() & stored.keys())
        if own[name].shape != stored[name].shape
    ]
    if missing or extra or wrong:
        raise TriageError(
            f"{path} does not fit its base: {len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown "
            f"{extra[:3]}, {len(wrong)} of another shape {wrong[:3]}."
        )
    for name, tensor in own.items():
        tensor.copy_(stored[name])


def _peft_state(model: Any) -> dict[str, torch.Tensor]:
    """PEFT's names to the model's own tensors (they share memory with the model)."""
    from peft import get_peft_model_state_dict

    # 'auto' would ask a hub about the vocabulary, and fail a job without network at its last step.
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state


def _whole_state(model: Any) -> dict[str, torch.Tensor]:
    """Every tensor once: of tied tensors the first name only."""
    state: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            state[name] = parameter.detach()
    return state


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """One safetensors file; the same tensors give the same bytes."""
    from safetensors.torch import save_file

    # Contiguous and on the CPU: what the format asks for.
    plain = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    save_file(plain, path, metadata={"format": "pt"})
    # The library makes private files; whoever shares the run folder must be able to read them.
    path.chmod(path.parent.stat().st_mode & 0o666)


def _peft_config(model: Any, base: str) -> dict[str, Any]:
    config = model.peft_config["default"].to_dict()
    config["base_model_name_or_path"] = base
    config["inference_mode"] = True
    if getattr(model, "pissa_initial", None):
        # Told so, PEFT alone subtracts the principal parts from its base too (by an SVD of its own).
        config["init_lora_weights"] = "pissa"
    plain: dict[str, Any] = json.loads(json.dumps(config, default=_plain))
    return {key: _sorted(plain[key]) for key in sorted(plain)}


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    return str(value)


def _sorted(value: Any) -> Any:
    # PEFT keeps some lists as sets, whose order changes from process to process.
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value

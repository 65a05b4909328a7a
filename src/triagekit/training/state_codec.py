"""Optimizer, scheduler and random-generator states as safetensors + JSON: exact, and without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json

if TYPE_CHECKING:
    import torch

_MARK = "__kind__"


def save_state(folder: Path, name: str, state: Any) -> None:
    """Write `state` (nested dicts, lists, tuples, numbers, strings, None, tensors, numpy arrays) as `<name>.json` and,
    if it holds tensors, `<name>.safetensors`. Python floats and every tensor bit survive.

    Raises TypeError for anything else (functions, objects), which would need pickle.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    write_json(folder / f"{name}.json", _pack(state, name, tensors))
    if tensors:
        path = folder / f"{name}.safetensors"
        save_file(tensors, str(path))
        with path.open("rb") as written:
            os.fsync(written.fileno())


def load_state(folder: Path, name: str) -> Any:
    """What save_state wrote; tensors come on the CPU. Raises TriageError when a file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / f"{name}.safetensors"
    try:
        packed = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return _unpack(packed, load_file(str(path)) if path.is_file() else {})
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TriageError(f"{folder / name} cannot be read back: {error}") from None


def has_state(folder: Path, name: str) -> bool:
    """Whether save_state wrote `name` there."""
    return (folder / f"{name}.json").is_file()


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    import numpy
    import torch

    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        # A copy: safetensors refuses tensors that share memory.
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {_MARK: "tensor", "key": path}
    if isinstance(value, numpy.ndarray):
        return {_MARK: "array", "dtype": str(value.dtype), "shape": list(value.shape), "values": value.ravel().tolist()}
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, Mapping):
        # Pairs, because JSON would turn the integer keys of an optimizer's state into text.
        pairs = [[_pack(key, path, tensors), _pack(inner, f"{path}.{key}", tensors)] for key, inner in value.items()]
        return {_MARK: "dict", "items": pairs}
    if isinstance(value, (list, tuple)):
        items = [_pack(inner, f"{path}.{index}", tensors) for index, inner in enumerate(value)]
        return {_MARK: "tuple", "items": items} if isinstance(value, tuple) else items
    raise TypeError(f"{path} is a {type(value).__name__}, which cannot be stored without pickle")


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    import numpy

    if isinstance(value, list):
        return [_unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    kind = value[_MARK]
    if kind == "tensor":
        return tensors[value["key"]]
    if kind == "array":
        return numpy.array(value["values"], dtype=value["dtype"]).reshape(value["shape"])
    if kind == "tuple":
        return tuple(_unpack(inner, tensors) for inner in value["items"])
    return {_unpack(key, tensors): _unpack(inner, tensors) for key, inner in value["items"]}

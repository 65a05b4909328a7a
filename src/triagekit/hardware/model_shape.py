"""The sizes of a base model, from its config.json alone: no weights, no network, no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triagekit.errors import TriageError, did_you_mean
from triagekit.files.resources import find_config
from triagekit.files.yaml_file import load_yaml

EMBEDDED = "embedded"
_EMBEDDED_CONFIG = Path(__file__).resolve().parent.parent / "modeling" / "tiny_base" / "config.json"
_STORED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Family:
    """How a model type differs from Llama's layout: q, k, v, o, gate, up, down, and a norm before each half."""

    attention_bias: bool | None = False
    """Bias of q, k and v; None: as the configuration's `attention_bias` says, and then of o too."""
    norms: int = 2
    """Norms of width `hidden` in a layer."""
    head_norms: bool = False
    """Norms of width `head_dim` on queries and keys."""
    tied: bool = False
    """Whether head and embeddings are one tensor where the configuration does not say."""


FAMILIES = {
    "llama": Family(attention_bias=None),
    "mistral": Family(),
    "smollm3": Family(attention_bias=None),
    "granite": Family(attention_bias=None),
    "qwen2": Family(attention_bias=True),
    "qwen3": Family(attention_bias=None, head_norms=True),
    "gemma": Family(attention_bias=None, tied=True),
    "gemma2": Family(attention_bias=None, norms=4, tied=True),
    "gemma3_text": Family(attention_bias=None, norms=4, head_norms=True, tied=True),
}
"""Layouts that are counted exactly (tested against the counts of transformers' own models)."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a dense decoder. Parameters are counted once where head and embeddings are tied."""

    base: str
    parameters: int
    embedding_parameters: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    dtype_bytes_stored: int
    norm_parameters: int
    bias_parameters: int
    head_norms: bool
    linears: tuple[tuple[str, int, int], ...]
    """(name, inputs, outputs) of each linear module of one layer; the head is not among them."""

    @property
    def linear_parameters(self) -> int:
        """Weights, without biases, of the linear modules of all layers: what quantisation touches."""
        return self.layers * sum(inputs * outputs for _, inputs, outputs in self.linears)

    @property
    def other_parameters(self) -> int:
        """Everything that quantisation leaves alone: embeddings, head, norms, biases."""
        return self.parameters - self.linear_parameters

    @property
    def head_parameters(self) -> int:
        """Weights of the output head, which may be the embeddings'."""
        return self.vocabulary * self.hidden

    @property
    def largest_tensor(self) -> int:
        """Weights of the largest single tensor."""
        return max(self.embedding_parameters, *(inputs * outputs for _, inputs, outputs in self.linears))


def model_shape(base: str) -> ModelShape:
    """The shape of 'embedded', a model folder, a hub id in the local cache, or one that configs/hardware/models.yaml knows.

    Raises TriageError saying what to do when the base is not known here, or its layout cannot be counted.
    """
    return shape_of_config(base, _config(base))


def shape_of_config(base: str, config: Mapping[str, Any]) -> ModelShape:
    """The shape that a model's configuration (the content of its config.json) describes.

    Raises TriageError for a layout that is not one of FAMILIES, or a configuration that lacks a size.
    """
    own = {**config, **config["text_config"]} if isinstance(config.get("text_config"), Mapping) else dict(config)
    kind = str(own.get("model_type", ""))
    family = FAMILIES.get(kind)
    if family is None:
        raise TriageError(
            f"base {base}: the memory of a model of type '{kind}' cannot be estimated. "
            f"{did_you_mean(kind, FAMILIES)} The run itself may work: give hardware.rung a name."
        )
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [key for key in needed if not isinstance(own.get(key), int)]
    if missing:
        raise TriageError(f"base {base}: its config.json lacks {', '.join(missing)}.")
    hidden, intermediate, layers, heads, vocabulary = (int(own[key]) for key in needed)
    key_value_heads = int(own.get("num_key_value_heads") or heads)
    head_dim = int(own.get("head_dim") or hidden // heads)
    queries, keys = heads * head_dim, key_value_heads * head_dim
    linears = (
        ("q_proj", hidden, queries),
        ("k_proj", hidden, keys),
        ("v_proj", hidden, keys),
        ("o_proj", queries, hidden),
        ("gate_proj", hidden, intermediate),
        ("up_proj", hidden, intermediate),
        ("down_proj", intermediate, hidden),
    )
    given_bias = bool(own.get("attention_bias", False))
    bias = queries + 2 * keys if (given_bias if family.attention_bias is None else family.attention_bias) else 0
    bias += hidden if family.attention_bias is None and given_bias else 0
    bias += 2 * intermediate + hidden if own.get("mlp_bias") else 0
    norms = layers * (family.norms * hidden + (2 * head_dim if family.head_norms else 0)) + hidden
    tied = bool(own.get("tie_word_embeddings", family.tied))
    embeddings = vocabulary * hidden
    linear = layers * sum(inputs * outputs for _, inputs, outputs in linears)
    stored = str(own.get("dtype") or own.get("torch_dtype") or config.get("dtype") or "bfloat16")
    return ModelShape(
        base=base,
        parameters=embeddings * (1 if tied else 2) + linear + layers * bias + norms,
        embedding_parameters=embeddings,
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=key_value_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocabulary=vocabulary,
        tied=tied,
        dtype_bytes_stored=_STORED_BYTES.get(stored.removeprefix("torch."), 2),
        norm_parameters=norms,
        bias_parameters=layers * bias,
        head_norms=family.head_norms,
        linears=linears,
    )


def _config(base: str) -> dict[str, Any]:
    if base == EMBEDDED:
        return _read(_EMBEDDED_CONFIG, base)
    folder = Path(base).expanduser()
    if folder.is_dir():
        return _read(folder / "config.json", base)
    cached = cached_config(base)
    if cached is not None:
        return _read(cached, base)
    models = load_yaml(find_config("hardware", "models")).data["models"]
    for entry in models:
        if base in entry["ids"]:
            return dict(entry["config"])
    known = [name for entry in models for name in entry["ids"]]
    raise TriageError(
        f"base {base}: not a folder, not in the local hub cache ({hub_cache()}), and its sizes are not known. "
        f"{did_you_mean(base, [EMBEDDED, *known])} On a node with network: hf download {base} config.json"
    )


def hub_cache() -> Path:
    """The folder of the local hub cache, by the libraries' own variables: HF_HUB_CACHE, else HF_HOME, else ~/.cache."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("HF_HOME", cache_home / "huggingface")).expanduser() / "hub"


def cached_config(hub_id: str) -> Path | None:
    """config.json of the newest known snapshot of a hub id in the local cache, if it is there."""
    folder = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    main = folder / "refs" / "main"
    if main.is_file():
        path = folder / "snapshots" / main.read_text(encoding="utf-8").strip() / "config.json"
        if path.is_file():
            return path
    found = sorted(folder.glob("snapshots/*/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _read(path: Path, base: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TriageError(f"base {base}: {path.parent} holds no config.json, so it is not a saved model.") from None
    except (OSError, ValueError) as error:
        raise TriageError(f"base {base}: {path} cannot be read ({error}).") from None
    if not isinstance(config, dict):
        raise TriageError(f"base {base}: {path} holds no settings.")
    return config

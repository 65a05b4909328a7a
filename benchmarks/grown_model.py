"""A larger Qwen2 that begins by saying what a smaller one says: a model of a size worth measuring that has learnt to read.

Width is doubled and layers are put in so that the function stays the same (Chen, Goodfellow and Shlens, "Net2Net", 2015; for
transformers Chen et al., "bert2BERT", 2021), then a little noise lets the copies part. Some hundred steps of training on a CPU
teach it what a random model of its size would not learn in thousands.

With hidden states x of the small model, the large one's are (x, x):

- Every matrix that reads them is divided by two and stands there twice. A root mean square is that of x alone, so norms stay, but
  for the last: the tied embedding reads (x, x) too, and its weights are halved instead.
- A head's dimensions double as well. Its rotations keep their frequencies: theta^(-2i/d) of pair i among d dimensions is that
  of pair 2i among 2d. Queries are multiplied by the square root of two, which the longer head's scale takes away.
- New neurons and new layers write zeros: their output matrices are zero, and gradients reach these at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2Config

NOISE = 0.05
"""Of each matrix, as a share of its own standard deviation."""


@torch.no_grad()
def grow(small: PreTrainedModel, large: PreTrainedModel, noise: float = NOISE, seed: int = 0) -> None:
    """Write into `large`, freshly drawn, what `small` computes.

    `large` has twice the hidden states, neurons and dimensions of a head, as many heads of both kinds, at least as many layers
    and tokens. Raises ValueError where it has not.
    """
    _check(small.config, large.config)
    source, target = small.state_dict(), large.state_dict()
    fresh = torch.Generator().manual_seed(seed)
    embedding = target["model.embed_tokens.weight"]
    known = source["model.embed_tokens.weight"]
    embedding[: len(known)] = torch.cat([known, known], dim=1)
    target["model.norm.weight"].copy_(_twice(source["model.norm.weight"]) / 2)
    for place, origin in enumerate(_origins(small.config.num_hidden_layers, large.config.num_hidden_layers)):
        new = f"model.layers.{place}."
        if origin is None:
            for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                target[new + name].zero_()
        else:
            _widen(source, f"model.layers.{origin}.", target, new, small.config)
    for name, weights in target.items():
        if weights.ndim == 2 and name != "lm_head.weight":
            weights += torch.randn(weights.shape, generator=fresh) * (noise * weights.std())


def _check(small: Qwen2Config, large: Qwen2Config) -> None:
    doubled = ("hidden_size", "intermediate_size")
    alike = ("num_attention_heads", "num_key_value_heads", "rope_parameters", "rms_norm_eps", "tie_word_embeddings")
    wrong = [
        *(f"{name} is not twice" for name in doubled if getattr(large, name) != 2 * getattr(small, name)),
        *(f"{name} differs" for name in alike if getattr(large, name) != getattr(small, name)),
        *(
            f"{name} is smaller"
            for name in ("num_hidden_layers", "vocab_size")
            if getattr(large, name) < getattr(small, name)
        ),
    ]
    if wrong:
        raise ValueError(f"The small model cannot be grown into this one: {', '.join(wrong)}.")


def _origins(small: int, large: int) -> list[int | None]:
    """For each layer of the large model the layer of the small one that it copies, None for those that are new."""
    kept = {math.ceil((index + 1) * large / small) - 1: index for index in range(small)}
    return [kept.get(place) for place in range(large)]


def _widen(source: Mapping[str, Tensor], old: str, target: dict[str, Tensor], new: str, config: Qwen2Config) -> None:
    """One layer."""
    size = config.hidden_size // config.num_attention_heads
    for name in ("input_layernorm", "post_attention_layernorm"):
        target[f"{new}{name}.weight"].copy_(_twice(source[f"{old}{name}.weight"]))
    for name in ("q_proj", "k_proj", "v_proj"):
        places = _whole(size) if name == "v_proj" else _rotations(size)
        factor = math.sqrt(2) if name == "q_proj" else 1.0
        for kind in ("weight", "bias"):
            given = source[f"{old}self_attn.{name}.{kind}"] * factor
            wide = given.new_zeros(len(given) // size, 2 * size, *given.shape[1:])
            wide[:, places] = given.view(-1, size, *given.shape[1:])
            wide = wide.flatten(0, 1)
            target[f"{new}self_attn.{name}.{kind}"].copy_(_reads(wide) if kind == "weight" else wide)
    output = source[f"{old}self_attn.o_proj.weight"]
    wide = output.new_zeros(len(output), output.shape[1] // size, 2 * size)
    wide[..., _whole(size)] = output.view(len(output), -1, size)
    target[f"{new}self_attn.o_proj.weight"].copy_(_twice(wide.flatten(1)))
    for name in ("gate_proj", "up_proj"):
        into = target[f"{new}mlp.{name}.weight"]
        given = source[f"{old}mlp.{name}.weight"]
        into[: len(given)] = _reads(given)
    into = target[f"{new}mlp.down_proj.weight"]
    given = source[f"{old}mlp.down_proj.weight"]
    into.zero_()
    into[:, : given.shape[1]] = _twice(given)


def _twice(weights: Tensor) -> Tensor:
    """Output of a state that stands there twice."""
    return torch.cat([weights, weights])


def _reads(weights: Tensor) -> Tensor:
    """[out, in] → [out, 2 in]: reading such a state."""
    return torch.cat([weights, weights], dim=1) / 2


def _whole(size: int) -> Tensor:
    """Where the dimensions of a head's values go."""
    return torch.arange(size)


def _rotations(size: int) -> Tensor:
    """Where the dimensions of a head's queries and keys go: pair (i, i + size/2) to (2i, 2i + size)."""
    half = 2 * torch.arange(size // 2)
    return torch.cat([half, half + size])

"""A decoder's layers as a function of tensors, which compilers can take whole: what a backend would have to be given.

Needs torch alone, so that it can be read in environments without this project. It is the arithmetic of Qwen2 on rows of one
length: new tokens, the keys and values of what stands before them, and back come the state behind each row's last token, and
the new keys and values, which the host would keep. Two forms, equal but for rounding:

- `shared`: the prefix's keys and values are there once, for all rows. Scores of both parts go into one softmax.
- `copied`: every row brings its copy of them, and torch's own attention reads all at once.

As in this project's pass, the last layer computes the last tokens alone. That all rows are of one length spares it what real
batches need: packing, places to write to, masks of each row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

FORMS = ("shared", "copied")
Pair = tuple[torch.Tensor, torch.Tensor]


class DecoderLayers(nn.Module):
    """Embedding, layers and final norm of the Qwen2 model in a folder."""

    def __init__(self, folder: Path, form: str, positions: int) -> None:
        """`positions`: that there are at most."""
        super().__init__()
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
        if config["model_type"] != "qwen2" or config.get("use_sliding_window"):
            raise ValueError(f"{folder}: {config['model_type']} is not the arithmetic of these layers (qwen2)")
        self.form, self.heads, self.key_heads = form, config["num_attention_heads"], config["num_key_value_heads"]
        self.dimension = config["hidden_size"] // self.heads
        self.epsilon = config["rms_norm_eps"]
        self.embedding = nn.Parameter(weights["model.embed_tokens.weight"])
        self.norm = nn.Parameter(weights["model.norm.weight"])
        self.layers = nn.ModuleList(
            _Layer(weights, f"model.layers.{number}.") for number in range(config["num_hidden_layers"])
        )
        rates = config["rope_parameters"]["rope_theta"] ** -(torch.arange(0, self.dimension, 2) / self.dimension)
        angles = torch.arange(positions)[:, None] * torch.cat([rates, rates])
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        self.requires_grad_(False)

    def forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        prefix_keys: list[torch.Tensor],
        prefix_values: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """New tokens `ids` and their `positions` [R, W]; of each layer the rows' keys and values [R, K, P, D], and in the form
        `shared` those of the prefix [K, L, D]. Gives states [R, H], and of each layer new keys and values [R, K, W, D]."""
        hidden = nn.functional.embedding(ids, self.embedding)
        cosine, sine = self.cosine[positions][:, :, None], self.sine[positions][:, :, None]
        # A new token sees what was there before, and of the new ones those up to its own place.
        width = ids.shape[1]
        places = torch.arange(width, device=ids.device)
        later = torch.zeros(width, width).masked_fill(places[None, :] > places[:, None], -torch.inf)
        bias = torch.cat([torch.zeros(width, keys[0].shape[2]), later], 1)
        new_keys, new_values = [], []
        for number, layer in enumerate(self.layers):
            normed = self._normed(hidden, layer.input_norm)
            key = self._turned(self._split(layer.key(normed), self.key_heads), cosine, sine).transpose(1, 2)
            value = self._split(layer.value(normed), self.key_heads).transpose(1, 2)
            new_keys.append(key)
            new_values.append(value)
            if number == len(self.layers) - 1:
                hidden, normed, bias = hidden[:, -1:], normed[:, -1:], bias[-1:]
                cosine, sine = cosine[:, -1:], sine[:, -1:]
            query = self._turned(self._split(layer.query(normed), self.heads), cosine, sine)
            own = torch.cat([keys[number], key], 2), torch.cat([values[number], value], 2)
            if self.form == "shared":
                attended = self._attend_shared(query, own, (prefix_keys[number], prefix_values[number]), bias)
            else:
                attended = self._attend_copied(query, own, bias)
            hidden = hidden + layer.output(attended)
            normed = self._normed(hidden, layer.feed_forward_norm)
            hidden = hidden + layer.down(nn.functional.silu(layer.gate(normed)) * layer.up(normed))
        return self._normed(hidden[:, 0], self.norm), new_keys, new_values

    def _attend_copied(self, query: torch.Tensor, own: Pair, bias: torch.Tensor) -> torch.Tensor:
        """`query` [R, W, H, D] → [R, W, H * D]."""
        rows, width = query.shape[0], query.shape[1]
        attended = nn.functional.scaled_dot_product_attention(
            self._folded(query), *own, attn_mask=self._of_all_heads(bias)
        )
        return self._unfolded(attended, rows, width)

    def _attend_shared(self, query: torch.Tensor, own: Pair, prefix: Pair, bias: torch.Tensor) -> torch.Tensor:
        """The same, with all rows' scores of the prefix in one product of each head of keys."""
        rows, width = query.shape[0], query.shape[1]
        folded = self._folded(query) * self.dimension**-0.5
        together = folded.transpose(0, 1).reshape(self.key_heads, -1, self.dimension)
        before = (together @ prefix[0].transpose(1, 2)).reshape(self.key_heads, rows, -1, prefix[0].shape[1])
        behind = (folded @ own[0].transpose(2, 3) + self._of_all_heads(bias)).transpose(0, 1)
        largest = torch.maximum(before.amax(-1, keepdim=True), behind.amax(-1, keepdim=True))
        before, behind = (before - largest).exp(), (behind - largest).exp()
        whole = before.sum(-1, keepdim=True) + behind.sum(-1, keepdim=True)
        of_prefix = before.reshape(self.key_heads, -1, prefix[0].shape[1]) @ prefix[1]
        of_own = behind.transpose(0, 1) @ own[1]
        attended = (of_prefix.reshape(self.key_heads, rows, -1, self.dimension) + of_own.transpose(0, 1)) / whole
        return self._unfolded(attended.transpose(0, 1), rows, width)

    def _of_all_heads(self, bias: torch.Tensor) -> torch.Tensor:
        """For the query heads that share keys: [W, L] → [H / K * W, L]."""
        return bias.repeat(self.heads // self.key_heads, 1)

    def _folded(self, query: torch.Tensor) -> torch.Tensor:
        """[R, W, H, D] → [R, K, H / K * W, D]."""
        rows, width = query.shape[0], query.shape[1]
        heads = query.transpose(1, 2).reshape(rows, self.key_heads, -1, width, self.dimension)
        return heads.reshape(rows, self.key_heads, -1, self.dimension)

    def _unfolded(self, attended: torch.Tensor, rows: int, width: int) -> torch.Tensor:
        """[R, K, H / K * W, D] → [R, W, H * D]."""
        return attended.reshape(rows, self.heads, width, self.dimension).transpose(1, 2).reshape(rows, width, -1)

    def _split(self, states: torch.Tensor, heads: int) -> torch.Tensor:
        """[R, W, heads * D] → [R, W, heads, D]."""
        return states.reshape(states.shape[0], states.shape[1], heads, self.dimension)

    def _turned(self, heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        left, right = heads.chunk(2, -1)
        return heads * cosine + torch.cat([-right, left], -1) * sine

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.epsilon) * weight


class _Layer(nn.Module):
    """The weights of one layer."""

    def __init__(self, weights: dict[str, torch.Tensor], name: str) -> None:
        super().__init__()
        self.input_norm = nn.Parameter(weights[f"{name}input_layernorm.weight"])
        self.feed_forward_norm = nn.Parameter(weights[f"{name}post_attention_layernorm.weight"])
        for own, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            setattr(self, own, _linear(weights, f"{name}self_attn.{theirs}_proj"))
        for own in ("gate", "up", "down"):
            setattr(self, own, _linear(weights, f"{name}mlp.{own}_proj"))


def _linear(weights: dict[str, torch.Tensor], name: str) -> nn.Linear:
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def pass_inputs(tensors: dict[str, torch.Tensor], form: str, width: int) -> tuple[Any, ...]:
    """What the layers are given for the pass of `width` new tokens a row.

    `tensors`: `ids_WIDTH` [R, W], `stored_WIDTH` (how many tokens of its own each row has before them), `prefix_keys` and
    `prefix_values` [layers, K, L, D], `keys` and `values` [layers, R, K, P, D].
    """
    ids, stored = tensors[f"ids_{width}"], int(tensors[f"stored_{width}"])
    prefix = [list(tensors[f"prefix_{part}"]) for part in ("keys", "values")]
    own = [[each[:, :, :stored].contiguous() for each in tensors[part]] for part in ("keys", "values")]
    first = prefix[0][0].shape[1] + stored
    positions = torch.arange(first, first + width).repeat(len(ids), 1)
    if form == "shared":
        return ids, positions, *own, *prefix
    rows = len(ids)
    whole = [
        [torch.cat([before.expand(rows, -1, -1, -1), behind], 2) for before, behind in zip(*both, strict=True)]
        for both in zip(prefix, own, strict=True)
    ]
    return ids, positions, *whole, [], []

"""Attention of packed tokens behind one common prefix, whose keys and values no row copies.

The tokens that are new in a forward pass stand one row behind the other in a sequence of batch size 1, so that no padding
goes through the model's linear layers. Each token attends to the prefix, all tokens together in one product, and to its
own row; the two results are merged by their log-sum-exps, which is exact (N. Rabe, C. Staats, arXiv 2112.05682).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface

from triagekit.decoding.kernels.pointwise import fused_pointwise
from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model, hidden_states

ATTENTION = "triagekit_prefixed"
flash_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Attending(Protocol):
    """How the packed tokens of a forward pass attend."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Query [H, T, D], key and value [K, T, D] of one layer → [T, H, D]."""


class Pass(Attending, Protocol):
    """One forward pass: its T packed tokens, and which of them are each row's last."""

    ids: torch.Tensor
    """[T]."""
    positions: torch.Tensor
    """[T], in the whole sequence, prefix included."""
    last: torch.Tensor
    """[rows or more]: each row's last token among the packed ones, and again the last row's."""
    rows: int

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep keys and values of a layer, without attending."""

    def last_tokens(self) -> Attending:
        """How the last tokens attend by themselves, to keys and values that are stored."""


def attend_to_keys(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [B, H, Q, D] and the log-sum-exp of its scaled scores, float32 [B, H, Q].

    Key and value are [B, K, L, D]; K divides H, and heads that share keys are computed without repeating them. `bias`
    [B or 1, 1, H / K * Q, L]: 0 where a key is seen, minus infinity elsewhere; every query sees a key.
    """
    batch, heads, queries, dimension = query.shape
    folded = query.reshape(batch, key.shape[1], -1, dimension)
    if query.device.type == "cpu":
        output, sums = flash_on_cpu(folded, key, value, 0.0, False, attn_mask=bias, scale=scale)
    else:
        output, sums = _plain_attention(folded, key, value, scale, bias)
    return output.reshape(query.shape), sums.reshape(batch, heads, queries)


def attend_to_window(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where some query may see no key at all: it gets 0, and a log-sum-exp of minus infinity.

    `seen` boolean [B or 1, 1, Q, L].
    """
    batch, heads, queries, dimension = query.shape
    folded = query.reshape(batch, key.shape[1], -1, dimension)
    bias = bias_of(seen, heads // key.shape[1], torch.float32)
    output, sums = _plain_attention(folded, key, value, scale, bias)
    return output.reshape(query.shape), sums.reshape(batch, heads, queries)


def _plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = (query @ key.transpose(2, 3)).float() * scale
    if bias is not None:
        scores = scores + bias
    sums = scores.logsumexp(-1)
    weights = (scores - sums.clamp(min=torch.finfo(torch.float32).min)[..., None]).exp()
    return weights.to(value.dtype) @ value, sums


def bias_of(seen: torch.Tensor, shared: int, dtype: torch.dtype) -> torch.Tensor:
    """The additive form of a boolean mask [B, 1, Q, L], for `shared` query heads on each key head."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, -torch.inf).repeat(1, 1, shared, 1)


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of [B, H, Q, D] to itself, each token to those before it and to itself; and its log-sum-exp [B, H, Q]."""
    if query.device.type == "cpu" and window is None:
        shared = query.shape[1] // key.shape[1]
        if shared > 1:
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        output, sums = flash_on_cpu(query, key, value, 0.0, True, scale=scale)
        return output, sums
    slots = torch.arange(query.shape[2], device=query.device)
    return attend_to_window(query, key, value, scale, seen_slots(slots[None, :], slots, window))


def seen_slots(queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which keys a query sees, boolean [B, 1, Q, L], by positions [B, Q] and [L]."""
    places = queries[:, None, :, None]
    seen = keys <= places
    return seen if window is None else seen & (keys > places - window)


def merged(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Attention [T, H, D] over the keys of both; each part is (output [T, H, D], log-sum-exp [T, H])."""
    both = torch.logaddexp(first[1], second[1])
    shares = [(sums - both).exp()[..., None] for _, sums in (first, second)]
    return (first[0] * shares[0] + second[0] * shares[1]).to(first[0].dtype)


def prefixed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prefixed: Attending | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query [1, H, T, D], key and value [1, K, T, D] → ([1, T, H, D], None)."""
    if prefixed is None or softcap is not None or s_aux is not None:
        raise TriageError(f"{type(module).__name__} asks for a kind of attention that the batched decoder lacks.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    keys, values = key[0].to(query.dtype), value[0].to(query.dtype)
    output = prefixed.attend(int(module.layer_idx), query[0], keys, values, scale, sliding_window)  # type: ignore[arg-type]
    return output[None], None


class _Stored(Exception):
    """Ends an attention module's forward once its keys and values are kept: what would follow is not looked at."""


class _Storing:
    """Stands in for a pass where only its keys and values are wanted."""

    def __init__(self, prefixed: Pass) -> None:
        self._prefixed = prefixed

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """Raises _Stored."""
        self._prefixed.store(layer, key, value)
        raise _Stored


def only_last_tokens(
    layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook before the last layer: of what it gives, only the state behind each row's last token is looked at.

    The other tokens need their keys and values there, and nothing else: no attention, and no feed-forward network.
    """
    prefixed: Pass = options["prefixed"]
    if len(arguments) != 1 or options.get("attention_mask") is not None or "position_embeddings" not in options:
        return arguments, options
    hidden, last = arguments[0], prefixed.last
    inner: Any = layer
    with suppress(_Stored):
        inner.self_attn(hidden_states=inner.input_layernorm(hidden), **{**options, "prefixed": _Storing(prefixed)})
    rotary = options["position_embeddings"]
    options = {
        **options,
        "prefixed": prefixed.last_tokens(),
        "position_embeddings": tuple(part[:, last] for part in rotary),
    }
    if options.get("position_ids") is not None:
        options["position_ids"] = options["position_ids"][:, last]
    return (hidden[:, last],), options


@contextmanager
def prefixed_attention_of(model: nn.Module) -> Iterator[None]:
    """Let `model` attend so inside the block, and as before after it."""
    AttentionInterface.register(ATTENTION, prefixed_attention)
    causal = causal_model(model)
    before = causal.config._attn_implementation
    last_layer = list(getattr(causal.get_decoder(), "layers", [None]))[-1]
    # Layers that norm before they attend; what others hand to their attention is not known here.
    known = hasattr(last_layer, "input_layernorm") and hasattr(last_layer, "self_attn")
    hook = last_layer.register_forward_pre_hook(only_last_tokens, with_kwargs=True) if known else None
    causal.set_attn_implementation(ATTENTION)
    try:
        with fused_pointwise(causal):
            yield
    finally:
        if hook is not None:
            hook.remove()
        causal.set_attn_implementation(before)


def last_hidden_states(model: nn.Module, prefixed: Pass) -> torch.Tensor:
    """Hidden state [rows, H] behind each row's last new token. To be called inside `prefixed_attention_of`."""
    states, _ = hidden_states(
        model, prefixed.ids[None], position_ids=prefixed.positions[None], use_cache=False, prefixed=prefixed
    )
    last = states[0] if states.shape[1] == len(prefixed.last) else states[0, prefixed.last]
    return last[: prefixed.rows]

"""Attention over a packed sequence with shared prefixes, taken apart and merged again, exactly.

Each unit (a prefix, or a row's own tokens) attends to itself under a causal mask, and all rows behind a prefix attend to
it in one unmasked product, without a copy of its keys for each row. Two attentions over disjoint keys are merged by their
log-sum-exps (N. Rabe, C. Staats, arXiv 2112.05682), and with the merged output and log-sum-exp the backward pass of each
part gives its share of the gradient (H. Liu et al., arXiv 2310.01889).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface

from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model
from triagekit.modeling.shared_prefix.flex import FlexAttention
from triagekit.modeling.shared_prefix.kernels import Kernel, kernel_for
from triagekit.modeling.shared_prefix.layout import SharedPrefixLayout

ATTENTION = "triagekit_shared_prefix"


class SharedPrefixAttention(torch.autograd.Function):
    """`apply(query [H, T, D], key [K, T, D], value [K, T, D], layout, scale, kernel)` → [H, T, D]; K divides H."""

    @staticmethod
    def forward(
        context: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: SharedPrefixLayout,
        scale: float,
        kernel: Kernel,
    ) -> torch.Tensor:
        heads, tokens, _ = query.shape
        shared = heads // key.shape[0]
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        log_sum_exp = query.new_empty(heads, tokens, dtype=torch.float32)
        for block in layout.blocks:
            part, sums = kernel.forward(
                block.take(query), _for_each_head(block.take(key), shared), _for_each_head(block.take(value), shared),
                True, scale,
            )  # fmt: skip
            output[:, block.tokens], log_sum_exp[:, block.tokens] = block.give(part), block.give(sums)
        for start, end, rows_end in layout.spans:
            if rows_end == end:
                continue
            rows = slice(end, rows_end)
            part, sums = kernel.forward(
                _folded(query[:, rows], shared), key[None, :, start:end], value[None, :, start:end], False, scale
            )
            part, sums = part.reshape_as(output[:, rows]), sums.reshape_as(log_sum_exp[:, rows])
            both = torch.logaddexp(log_sum_exp[:, rows], sums)
            own_share, prefix_share = (log_sum_exp[:, rows] - both).exp(), (sums - both).exp()
            merged = output[:, rows] * own_share[..., None] + part * prefix_share[..., None]
            output[:, rows], log_sum_exp[:, rows] = merged.to(output.dtype), both
        context.save_for_backward(query, key, value, output, log_sum_exp)
        context.layout, context.scale, context.kernel = layout, scale, kernel
        return output

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, output, log_sum_exp = context.saved_tensors
        layout, scale, kernel = context.layout, context.scale, context.kernel
        gradient = gradients[0]
        shared = query.shape[0] // key.shape[0]
        of_query, of_key, of_value = (torch.zeros_like(tensor) for tensor in (query, key, value))
        for block in layout.blocks:
            # Padding sees keys that its log-sum-exp knows nothing of. With an infinite one all its probabilities are 0.
            padding = ~block.valid[:, None, :]
            incoming = block.take(gradient).masked_fill(padding[..., None], 0.0)
            sums = block.take(log_sum_exp).masked_fill(padding, float("inf"))
            parts = kernel.backward(
                incoming, block.take(query), _for_each_head(block.take(key), shared),
                _for_each_head(block.take(value), shared), block.take(output), sums, True, scale,
            )  # fmt: skip
            of_query[:, block.tokens] = block.give(parts[0])
            of_key[:, block.tokens] = block.give(_over_heads(parts[1], shared))
            of_value[:, block.tokens] = block.give(_over_heads(parts[2], shared))
        for start, end, rows_end in layout.spans:
            if rows_end == end:
                continue
            rows = slice(end, rows_end)
            parts = kernel.backward(
                _folded(gradient[:, rows], shared), _folded(query[:, rows], shared), key[None, :, start:end],
                value[None, :, start:end], _folded(output[:, rows], shared),
                _folded(log_sum_exp[:, rows, None], shared)[..., 0], False, scale,
            )  # fmt: skip
            of_query[:, rows] += parts[0].reshape_as(of_query[:, rows])
            of_key[:, start:end] += parts[1][0]
            of_value[:, start:end] += parts[2][0]
        return of_query, of_key, of_value, None, None, None


def _for_each_head(block: torch.Tensor, shared: int) -> torch.Tensor:
    """Keys or values of K heads repeated for the query heads that share each."""
    return block.repeat_interleave(shared, 1) if shared > 1 else block


def _over_heads(block: torch.Tensor, shared: int) -> torch.Tensor:
    """The sum over the query heads that share a key head."""
    units, heads, *rest = block.shape
    return block.reshape(units, heads // shared, shared, *rest).sum(2) if shared > 1 else block


def _folded(packed: torch.Tensor, shared: int) -> torch.Tensor:
    """[H, n, D] to [1, K, shared · n, D]: query heads that share keys stand one behind the other, and no key is repeated."""
    return packed.reshape(1, packed.shape[0] // shared, shared * packed.shape[1], packed.shape[2])


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """The same by a mask [T, T] over all pairs, for attention that cannot be taken apart. Query [H, T, D] → [H, T, D]."""
    shared = query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(shared, 0), value.repeat_interleave(shared, 0)
    if softcap is None:
        result: torch.Tensor = functional.scaled_dot_product_attention(
            query[None], key[None], value[None], attn_mask=mask, scale=scale, dropout_p=dropout
        )[0]
        return result
    scores = torch.tanh(query @ key.transpose(1, 2) * (scale / softcap)) * softcap
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, dropout) @ value


def shared_prefix_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    shared_prefix: SharedPrefixLayout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: query [1, H, T, D], key and value [1, K, T, D] → ([1, T, H, D], None)."""
    if shared_prefix is None or s_aux is not None:
        raise TriageError(f"{type(module).__name__} asks for a kind of attention that packed rows lack.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kernel = kernel_for(query.device)
    if sliding_window is not None and sliding_window >= shared_prefix.longest:
        sliding_window = None
    queries, keys, values = query[0], key[0].to(query.dtype), value[0].to(query.dtype)
    if kernel is not None and softcap is None and sliding_window is None and not dropout:
        output = SharedPrefixAttention.apply(  # type: ignore[no-untyped-call]
            queries, keys, values, shared_prefix, scale, kernel
        )
    elif not dropout and (flex := FlexAttention.on(query.device)) is not None:
        output = flex.attend(queries, keys, values, shared_prefix, scale, sliding_window, softcap)
    else:
        mask = shared_prefix.mask(sliding_window)
        output = masked_attention(queries, keys, values, mask, scale, softcap, dropout)
    return output.transpose(0, 1)[None], None


def attend_by_shared_prefix(model: nn.Module) -> str:
    """Make `model` attend so from now on; its attention until now, for `set_attn_implementation`."""
    AttentionInterface.register(ATTENTION, shared_prefix_attention)
    causal = causal_model(model)
    before = str(causal.config._attn_implementation)
    causal.set_attn_implementation(ATTENTION)
    return before


@contextmanager
def shared_prefix_attention_of(model: nn.Module) -> Iterator[None]:
    """The same for the length of a block."""
    before = attend_by_shared_prefix(model)
    try:
        yield
    finally:
        causal_model(model).set_attn_implementation(before)

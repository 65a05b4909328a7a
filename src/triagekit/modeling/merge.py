"""Fold an adapter into its base: one plain model, with no work left per token."""

from __future__ import annotations

from typing import Any

from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model
from triagekit.modeling.hybrid import plain_again
from triagekit.modeling.output_head import merge_output_tokens
from triagekit.modeling.quantization import quantization_of


def merge_adapter(model: Any) -> Any:
    """The base with the adapter's low-rank updates, norms and head written into its weights; `model` is used up.

    All weights end in the base's own type, so in bf16 and fp16 the logits change by that type's rounding. A tied head
    that was trained becomes a tensor of its own, and the configuration says so. Raises TriageError for a quantised base:
    merging would round the update away.
    """
    causal = causal_model(model)
    if quantization_of(causal) is not None:
        raise TriageError(
            "An adapter cannot be merged into a quantised base. Load the base without quantization to merge."
        )
    if not hasattr(model, "merge_and_unload"):
        return model.eval()
    dtype = causal.get_input_embeddings().weight.dtype
    merge_output_tokens(causal)
    merged = model.merge_and_unload(safe_merge=True)
    plain_again(merged, dtype)
    for parameter in merged.parameters():
        parameter.requires_grad_(False)
    return merged.eval()

"""The output head of a model: where it is, untying it from the embeddings, training only some of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from triagekit.errors import TriageError
from triagekit.modeling.trainable_modules import OutputTokenLinear, mix_in, unmix


def head_name(model: Any) -> str:
    """Full module name of the output head, e.g. 'lm_head'."""
    head = model.get_output_embeddings()
    name: str | None = next((name for name, module in model.named_modules() if module is head), None)
    if head is None or name is None:
        raise TriageError(f"{type(model).__name__} has no output head that could be trained; use method: lora.")
    return name


def is_tied(model: Any) -> bool:
    """True if the output head and the input embeddings are one and the same tensor."""
    head = model.get_output_embeddings()
    return head is not None and getattr(head, "weight", None) is model.get_input_embeddings().weight


def declare_untied(model: Any) -> None:
    """Write into the in-memory configuration that head and embeddings are two tensors, so that a saved copy says so."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    # Read by save_pretrained, which would leave the head out of the file as a duplicate of the embeddings.
    if getattr(model, "all_tied_weights_keys", None):
        model.all_tied_weights_keys = {}


def train_output_tokens(model: Any, token_ids: Sequence[int]) -> None:
    """Let only the head's rows of `token_ids` be trained, float32, starting from the base's.

    Raises TriageError for ids outside the vocabulary, none at all, or a head that is not a plain linear layer.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
        raise TriageError(
            f"head: output_tokens needs a linear output head, but {head_name(model)} is {type(head).__name__}."
        )
    ids = torch.tensor(sorted(set(token_ids)), dtype=torch.long)
    rows = head.weight.shape[0]
    if len(ids) == 0 or int(ids[0]) < 0 or int(ids[-1]) >= rows:
        shown = f"{int(ids[0])} … {int(ids[-1])}" if len(ids) else "none"
        raise TriageError(f"head: output_tokens was given token ids {shown}, but the head has rows 0 … {rows - 1}.")
    ids = ids.to(head.weight.device)
    mix_in(head, OutputTokenLinear)
    head.rows = nn.Parameter(head.weight.detach()[ids].to(torch.float32))
    head.register_buffer("token_ids", ids, persistent=False)


def has_output_tokens(model: Any) -> bool:
    """True if only some rows of the head are trained."""
    return isinstance(model.get_output_embeddings(), OutputTokenLinear)


def merge_output_tokens(model: Any) -> None:
    """Write trained rows into the head's own weight, untied from the embeddings first; the head is plain afterwards."""
    head: Any = model.get_output_embeddings()
    if not has_output_tokens(model):
        return
    tied = is_tied(model)
    weight = head.weight.detach().clone() if tied else head.weight.detach()
    weight[head.token_ids] = head.rows.detach().to(weight.dtype)
    del head.rows, head.token_ids
    unmix(head, OutputTokenLinear)
    head.weight = nn.Parameter(weight, requires_grad=False)
    if tied:
        declare_untied(model)

"""Hidden states and logits apart: so that only the positions that are trained or chosen at are projected to the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from triagekit.errors import TriageError


def causal_model(model: nn.Module) -> Any:
    """The causal language model inside a PEFT wrapper (adapters stay injected in it), or `model` itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def hidden_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool = False,
    **decoder_options: Any,
) -> tuple[torch.Tensor, Any]:
    """Last hidden states, after the final norm, of `input_ids` [B, T], and the key/value cache (None without).

    Returns ([B, T, H], cache). `attention_mask` is [B, past + T] or a 4-D mask as the libraries take it. Adapters of any
    method take part. `project_to_logits` turns any selection of the states into logits.
    """
    output = causal_model(model).get_decoder()(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=past_key_values,
        use_cache=use_cache,
        **decoder_options,
    )
    return output.last_hidden_state, getattr(output, "past_key_values", None)


def project_to_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [..., V] of hidden states [..., H], scaled and capped as the model's own forward does it."""
    return final_logits(model, causal_model(model).get_output_embeddings()(hidden))


def final_logits(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """What the model's own forward makes of its head's output [..., V]."""
    config = causal_model(model).config.get_text_config()
    if (factor := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (factor := getattr(config, "lm_head_multiplier", None)) is not None:  # Falcon-H1
        logits = logits * factor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return logits


@torch.no_grad()
def check_projection(model: nn.Module) -> None:
    """Prove on four tokens that the two functions above together equal the model's own forward.

    Raises TriageError for an architecture that treats its logits in a way not known here: training on it would follow
    another loss than the model's.
    """
    causal = causal_model(model)
    device = causal.get_input_embeddings().weight.device
    count = causal.get_input_embeddings().weight.shape[0]
    input_ids = torch.tensor([[1, 2, 3, 4]], device=device) % count
    own = causal(input_ids=input_ids, use_cache=False).logits.float()
    ours = project_to_logits(model, hidden_states(model, input_ids)[0]).float()
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-2, atol=1e-2 * float(own.abs().max() + 1e-6)):
        raise TriageError(
            f"{type(causal).__name__} computes its logits in a way that triagekit does not know "
            f"(largest difference {_difference(own, ours)}). Choose a base of another architecture."
        )


def _difference(own: torch.Tensor, ours: torch.Tensor) -> str:
    return f"{float((own - ours).abs().max()):.3g}" if own.shape == ours.shape else f"{own.shape} against {ours.shape}"

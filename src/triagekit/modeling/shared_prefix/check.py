"""Does a model give the same with packed rows as with padded ones? Asked once, before a run relies on it."""

from __future__ import annotations

import torch
from torch import nn

from triagekit.modeling.forward import causal_model, hidden_states
from triagekit.modeling.shared_prefix.attention import shared_prefix_attention_of
from triagekit.modeling.shared_prefix.layout import SharedPrefixLayout

PREFIX, OWN = 5, (3, 7, 1)
TOLERANCE = {torch.float32: 1e-3}
"""Largest relative error: ten times what reordered sums cost; another mask or position costs everything."""
TOLERANCE_OF_HALF = 5e-2


def why_not_packed(model: nn.Module) -> str | None:
    """Why `model` cannot compute rows packed behind a shared prefix: None where its hidden states and the gradients of
    its trained weights come out as with padded rows.

    A model whose layers carry a state along the sequence, or whose attention sees other pairs, shows itself here.
    """
    was_training = model.training
    model.eval()
    try:
        padded, packed = _padded(model), _packed(model)
    except Exception as error:  # Whatever an architecture raises, it is no reason not to train.
        return f"{type(causal_model(model)).__name__} refuses packed rows ({type(error).__name__}: {error})"
    finally:
        model.train(was_training)
    limit = TOLERANCE.get(padded[0].dtype, TOLERANCE_OF_HALF)
    errors = [_relative_error(ours, theirs) for ours, theirs in zip(packed, padded, strict=True)]
    if max(errors) <= limit:
        return None
    return (
        f"{type(causal_model(model)).__name__} computes packed rows otherwise than padded ones (by {max(errors):.1g})"
    )


def _token_ids(model: nn.Module) -> tuple[list[int], list[list[int]]]:
    count = int(causal_model(model).get_input_embeddings().weight.shape[0])
    numbers = iter(range(1, 1000))
    prefix = [next(numbers) % count for _ in range(PREFIX)]
    return prefix, [[next(numbers) % count for _ in range(length)] for length in OWN]


def _padded(model: nn.Module) -> list[torch.Tensor]:
    prefix, rows = _token_ids(model)
    device = causal_model(model).get_input_embeddings().weight.device
    width = PREFIX + max(OWN)
    ids = torch.tensor([[*prefix, *row, *[0] * (width - PREFIX - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * (PREFIX + len(row)) + [0] * (width - PREFIX - len(row)) for row in rows], device=device)
    states, _ = hidden_states(model, ids, mask)
    return _with_gradients(model, torch.cat([states[row, PREFIX : PREFIX + length] for row, length in enumerate(OWN)]))


def _packed(model: nn.Module) -> list[torch.Tensor]:
    prefix, rows = _token_ids(model)
    device = causal_model(model).get_input_embeddings().weight.device
    layout = SharedPrefixLayout.of([(PREFIX, OWN)]).to(device)
    ids = torch.tensor([[*prefix, *(token for row in rows for token in row)]], device=device)
    with shared_prefix_attention_of(model):
        states, _ = hidden_states(model, ids, position_ids=layout.positions[None], shared_prefix=layout)
        return _with_gradients(model, states[0, PREFIX:])


def _with_gradients(model: nn.Module, states: torch.Tensor) -> list[torch.Tensor]:
    """The states, and the gradients of some function of them."""
    function = (states.float() * torch.linspace(-1, 1, states.numel(), device=states.device).view_as(states)).sum()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(function, trained, allow_unused=True)
    return [states.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    size = float(theirs.float().norm())
    distance = float((ours.float() - theirs.float()).norm())
    return distance / size if size else distance

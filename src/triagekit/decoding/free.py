"""Unconstrained greedy generation: what the model writes when nothing holds it ('validity before the constraint')."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from triagekit.modeling.forward import causal_model

if TYPE_CHECKING:
    from torch import nn

    from triagekit.modeling.segments import SegmentTokenizer


@torch.inference_mode()
def generate_free(
    model: nn.Module,
    segments: SegmentTokenizer,
    texts: Sequence[str],
    max_new_tokens: int | None = None,
    batch_size: int = 16,
) -> list[str]:
    """The text written behind each ticket's prompt, up to the end of turn (which is left out), in the order of `texts`.

    `max_new_tokens` None: as many as the longest record is given in training. Greedy, whatever the base's own
    generation settings say; prompts are padded on the left.
    """
    from transformers import GenerationConfig

    causal = causal_model(model).eval()
    device = causal.get_input_embeddings().weight.device
    end = segments.template.end_of_turn_id
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens or segments.record_reserve,
        do_sample=False,
        num_beams=1,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=True,
    )
    prompts = [segments.prompt_ids(text, variant=0) for text in texts]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]), reverse=True)
    results = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        width = len(prompts[places[0]])
        ids = torch.tensor([[end] * (width - len(prompts[place])) + prompts[place] for place in places], device=device)
        mask = torch.tensor(
            [[0] * (width - len(prompts[place])) + [1] * len(prompts[place]) for place in places], device=device
        )
        # The base's own generation config would be merged in (sampling, penalties); it must not be.
        own, causal.generation_config = causal.generation_config, settings
        try:
            written = causal.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, width:]
        finally:
            causal.generation_config = own
        for place, row in zip(places, written.tolist(), strict=True):
            stop = row.index(end) if end in row else len(row)
            results[place] = segments.decode(row[:stop])
    return results

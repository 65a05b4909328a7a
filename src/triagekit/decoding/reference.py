"""The slow decoder that is plainly right: one ticket, no cache, the whole text through the model for every choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from triagekit.decoding.grammar import RecordGrammar
from triagekit.decoding.record import DecodedRecord, decoded_record
from triagekit.modeling.forward import causal_model

if TYPE_CHECKING:
    from torch import nn

    from triagekit.modeling.segments import SegmentTokenizer


class ReferenceDecoder:
    """Greedy decoding under the grammar, written so that it can be checked by reading. For tests and for doubts.

    `closest_choice`: in the ticket decoded last, the smallest difference of log-probability between a token that was chosen and
    the next best one. Where it is as small as a rounding error, another order of the same sums may choose otherwise.
    """

    def __init__(self, model: nn.Module, segments: SegmentTokenizer, grammar: RecordGrammar | None = None) -> None:
        self._model = causal_model(model).eval()
        self._segments = segments
        self._grammar = grammar or RecordGrammar.compile(segments)
        self._device = self._model.get_input_embeddings().weight.device
        self.closest_choice = math.inf

    @torch.inference_mode()
    def decode_one(self, text: str) -> DecodedRecord:
        """The record of one ticket. The most probable allowed token is taken each time, the lowest id among equals."""
        prompt = self._segments.prompt_ids(text, variant=0)
        _, cut = self._segments.ticket_ids(text, self._segments.ticket_room(0))
        written = list(self._grammar.start_ids)
        walk = self._grammar.start()
        log_confidence = [0.0] * len(self._grammar.schema.fields)
        self.closest_choice = math.inf
        while not walk.finished:
            allowed = torch.from_numpy(walk.allowed())
            best = 0
            if len(allowed) > 1:
                ids = torch.tensor([prompt + written], device=self._device)
                logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float().cpu()
                log_probability = torch.log_softmax(logits[allowed], dim=-1)
                best = int(log_probability.argmax())
                log_confidence[walk.field] += float(log_probability[best])
                first, second = log_probability.topk(2).values.tolist()
                self.closest_choice = min(self.closest_choice, first - second)
            token = int(allowed[best])
            walk.advance(token)
            written.append(token)
        return decoded_record(self._grammar.schema, walk.record(), log_confidence, len(written), cut)

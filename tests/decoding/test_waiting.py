"""On a GPU, every look at a value waits for all that was asked of it before. A meta device has no values to look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scoring_helpers import SCHEMAS, many_tickets, segments_for
from transformers import AutoConfig, AutoModelForCausalLM

from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.record import DecodedRecord
from triagekit.decoding.record_states import FINISHED, IN_TEXT, RecordStates
from triagekit.schema.fields import TextField

ROWS = 9


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_batch_looks_at_values_once_a_pass(
    tiny_model_folder: Path, piece_tokenizer: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = segments_for(piece_tokenizer, SCHEMAS[name])
    config = AutoConfig.from_pretrained(tiny_model_folder, vocab_size=len(segments.tokenizer) + 7)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    writes_text = any(isinstance(field, TextField) for field in segments.schema.fields)
    looks: list[int] = []

    def look(states: RecordStates, rows: torch.Tensor) -> tuple[list[int], list[int]]:
        """Rows that choose among two or three edges, rows that write text, and an end after some passes."""
        looks.append(len(rows))
        ways = [(2, 3, IN_TEXT if writes_text else 2)[row % 3] for row in range(len(rows))]
        return [4 * len(looks)] * len(rows), [FINISHED] * len(rows) if len(looks) % 6 == 0 else ways

    def results(states: RecordStates, rows: torch.Tensor, tokens_cut: list[int]) -> list[DecodedRecord]:
        return [DecodedRecord({}, {}, "", 0, cut) for cut in tokens_cut]

    # Once for each model, not for each pass.
    monkeypatch.setattr(BatchedDecoder, "_check_model", lambda self: None)
    monkeypatch.setattr(BatchedDecoder, "_opening_tokens", lambda self: [1, 2])
    monkeypatch.setattr(RecordStates, "look", look)
    monkeypatch.setattr(RecordStates, "results", results)
    decoder = BatchedDecoder(model, segments, batch_size=4)
    assert len(decoder.decode(many_tickets(ROWS))) == ROWS
    batches = -(-ROWS // 4)
    assert decoder.counts.passes == 5 * batches
    assert len(looks) == decoder.counts.passes + batches  # and one when rows begin

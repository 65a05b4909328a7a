"""What a row of a batch takes of memory is its own tokens': the prefix stands there once, however long it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_helpers import SCHEMAS, TICKETS

from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.kernels import build
from triagekit.modeling.base import load_base
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptSettings, PromptTemplate


def peak(decoder: BatchedDecoder, rows: int) -> int:
    """Bytes that tensors hold at most while so many equal tickets are decoded in one batch."""
    tickets = [max(TICKETS, key=len)] * rows
    decoder.decode(tickets)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        decoder.decode(tickets)
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_rows_do_not_copy_the_prefix(
    kernels: str, tiny_model_folder: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.library.cache_clear()
    monkeypatch.setenv(build.KERNELS, kernels)
    model = load_base(str(tiny_model_folder), device="cpu").requires_grad_(False)
    of_a_row, prefixes = [], []
    for strategy in ("implicit", "explicit"):
        prompt = PromptSettings(strategy=strategy, max_length=1500)
        segments = SegmentTokenizer(byte_tokenizer, PromptTemplate(byte_tokenizer, SCHEMAS["desk"], prompt))
        few, many = (peak(BatchedDecoder(model, segments, batch_size=rows), rows) for rows in (32, 64))
        of_a_row.append((many - few) / 32)
        prefixes.append(len(segments.prefix_ids(0)))
    build.library.cache_clear()
    assert prefixes[1] > 4 * prefixes[0]
    assert of_a_row[1] == pytest.approx(of_a_row[0], rel=0.01) and of_a_row[0] > 0

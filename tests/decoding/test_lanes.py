"""Batches side by side on the cores of a CPU: the same records, the same every time, and no lane is left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scoring_helpers import SCHEMAS, many_tickets, segments_for
from test_decoder import sharp_model

from triagekit.decoding import lanes
from triagekit.decoding.decoder import BatchedDecoder


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_lanes_give_the_records_of_one(
    tiny_model_folder: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    monkeypatch.setattr(lanes, "ROWS_OF_A_LANE", 8)
    decoder = BatchedDecoder(
        sharp_model(tiny_model_folder), segments_for(byte_tokenizer, SCHEMAS["desk"]), batch_size=4
    )
    texts = many_tickets(21)
    seen = set()
    advance = decoder.advance

    def noted(*arguments: Any) -> None:
        seen.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        advance(*arguments)

    monkeypatch.setattr(decoder, "advance", noted)
    both = decoder.decode(texts)
    assert len(seen) == 2 and threading.get_ident() not in seen
    assert torch.get_num_threads() == 2
    # Who stands beside whom is settled beforehand: not even the last digit of a confidence changes.
    assert decoder.decode(texts) == both
    assert decoder.counts.rows == 42 and decoder.counts.passes > 42 // 4
    monkeypatch.setattr(lanes, "MOST", 1)
    monkeypatch.setattr(decoder, "advance", advance)
    for one, other in zip(decoder.decode(texts), both, strict=True):
        assert (one.record, one.text, one.tokens) == (other.record, other.text, other.tokens)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_a_lane_that_fails_ends_the_others(two_threads: None) -> None:
    ended = []

    def work(rows: Sequence[int], stop: threading.Event) -> None:
        if 1 in rows:
            raise ValueError("lane of 1")
        assert stop.wait(20)
        ended.append(list(rows))

    began = time.monotonic()
    with pytest.raises(ValueError, match="lane of 1"):
        lanes.run_lanes(work, range(6), 2)
    assert ended == [[0, 2, 4]] and time.monotonic() - began < 15
    assert torch.get_num_threads() == 2


def test_an_interrupted_caller_ends_the_lanes(monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    stopped = []

    def work(rows: Sequence[int], stop: threading.Event) -> None:
        stopped.append(stop.wait(20))

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lanes.run_lanes(work, range(4), 2)
    assert stopped == [True, True]


def test_how_many_lanes(two_threads: None) -> None:
    def model(rope_type: str = "default", device: str = "cpu") -> Any:
        rotary = torch.nn.Identity()
        rotary.rope_type = rope_type
        causal = torch.nn.Sequential(rotary)
        causal.get_input_embeddings = lambda: SimpleNamespace(weight=torch.empty(1, device=device))
        return causal

    rows = lanes.ROWS_OF_A_LANE
    assert [lanes.lane_count(model(), count) for count in (1, rows, 2 * rows, 9 * rows)] == [1, 1, 2, 2]
    assert lanes.lane_count(model(device="meta"), 9 * rows) == 1
    # These rotary embeddings change with the longest sequence that they have seen: one pass at a time.
    assert [lanes.lane_count(model(kind), 9 * rows) for kind in ("dynamic", "longrope", "llama3")] == [1, 1, 2]
    torch.set_num_threads(16)
    assert lanes.lane_count(model(), 99 * rows) == lanes.MOST

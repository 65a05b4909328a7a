"""On a GPU, every look at a value waits for all that was asked of it before. A meta device has no values to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scoring_helpers import SCHEMAS, many_tickets, segments_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM

from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.record import DecodedRecord
from triagekit.decoding.record_states import FINISHED, IN_TEXT, RecordStates
from triagekit.decoding.static_batch import LOOK_BACK, StaticBatch
from triagekit.decoding.transfer import HostCopy
from triagekit.schema.fields import TextField

ROWS = 9


@pytest.fixture
def on_meta(
    tiny_model_folder: Path, piece_tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BatchedDecoder]:
    """A decoder on the meta device, where what is looked at once for each model, not for each pass, is left out."""
    monkeypatch.setattr(BatchedDecoder, "_check_model", lambda self: None)
    monkeypatch.setattr(BatchedDecoder, "_opening", lambda self: ([1, 2], 2))

    def results(states: RecordStates, rows: torch.Tensor, tokens_cut: list[int]) -> list[DecodedRecord]:
        return [DecodedRecord({}, {}, "", 0, cut) for cut in tokens_cut]

    monkeypatch.setattr(RecordStates, "results", results)

    def make(name: str, static: bool) -> BatchedDecoder:
        segments = segments_for(piece_tokenizer, SCHEMAS[name])
        config = AutoConfig.from_pretrained(tiny_model_folder, vocab_size=len(segments.tokenizer) + 7)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
        return BatchedDecoder(model, segments, batch_size=4, static=static)

    return make


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_batch_looks_at_values_once_a_pass(
    on_meta: Callable[..., BatchedDecoder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes_text = any(isinstance(field, TextField) for field in SCHEMAS[name].fields)
    looks: list[int] = []

    def look(states: RecordStates, rows: torch.Tensor) -> np.ndarray:
        """Rows that choose among two or three edges, rows that write text, and an end after some passes."""
        looks.append(len(rows))
        ways = [(2, 3, IN_TEXT if writes_text else 2)[row % 3] for row in range(len(rows))]
        return np.array([[4 * len(looks)] * len(rows), [FINISHED] * len(rows) if len(looks) % 6 == 0 else ways])

    monkeypatch.setattr(RecordStates, "look", look)
    decoder = on_meta(name, static=False)
    assert len(decoder.decode(many_tickets(ROWS))) == ROWS
    batches = -(-ROWS // 4)
    assert decoder.counts.passes == 5 * batches
    assert len(looks) == decoder.counts.passes + batches  # and one when rows begin


class HostNumbers(TorchDispatchMode):
    """Counts tensors of the host that the device is given. While a CUDA graph is recorded, none may be."""

    given = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        tensors = [part for part in tree_flatten((arguments, options))[0] if isinstance(part, torch.Tensor)]
        self.given += sum(tensor.device.type != "meta" for tensor in tensors)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_static_batch_is_told_nothing_and_only_looks_at_passes_long_done(
    on_meta: Callable[..., BatchedDecoder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[HostCopy] = []
    read: list[int] = []

    def remember(copy: HostCopy, numbers: torch.Tensor) -> None:
        asked.append(copy)

    def numbers(copy: HostCopy) -> np.ndarray:
        """Nothing is finished until the tenth look back, then everything is."""
        number = asked.index(copy)
        read.append(number)
        return np.array([[number >= 10] * 4, [7] * 4] if number < len(asked) - 1 else [0, 0])

    step, given = StaticBatch._step, []

    def watched_step(batch: StaticBatch, view: int) -> None:
        with HostNumbers() as seen:
            step(batch, view)
        given.append(seen.given)

    monkeypatch.setattr(HostCopy, "__init__", remember)
    monkeypatch.setattr(HostCopy, "numbers", numbers)
    monkeypatch.setattr(StaticBatch, "_step", watched_step)
    decoder = on_meta(name, static=True)
    assert len(decoder.decode(many_tickets(ROWS))) == ROWS
    assert len(given) == len(asked) - 1 > 3 * LOOK_BACK and not any(given)
    # The last is that of the call's counts, when all is done.
    assert read[:-1] == list(range(len(asked) - 1 - LOOK_BACK)) and read[-1] == len(asked) - 1

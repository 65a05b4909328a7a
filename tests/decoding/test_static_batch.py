"""Passes of fixed shapes, as GPUs get them, on a CPU: the same records, also when one step is recorded and repeated.

A CUDA graph repeats kernels on the same addresses and knows nothing of Python. `Tape` does that with the operations that
torch dispatches: whatever in a step depends on a value that the host has seen would be repeated as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_helpers import SCHEMAS, TICKETS, many_tickets, segments_for
from test_decoder import assert_equal, sharp_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from triagekit.decoding import static_batch
from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.recorded_step import RecordedStep
from triagekit.decoding.reference import ReferenceDecoder

Step = Callable[[], None]


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has none of the compiled loops."""
    for module in ("packed_attention", "pointwise", "text_choice"):
        monkeypatch.setattr(f"triagekit.decoding.kernels.{module}.library", lambda name: None)


class Tape(TorchDispatchMode):
    """The operations of a step; called, it does them again on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default, "a step looked at a value"
        result = function(*arguments, **(options or {}))
        self.operations.append((function, arguments, options or {}, result))
        return result

    def __call__(self) -> None:
        for function, arguments, options, result in self.operations:
            again = function(*arguments, **options)
            for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recordings:
    """A recorder, and what it was asked to record. Unlike a CUDA graph, a tape runs the step that it records."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.repeats = 0

    def __call__(self, step: Step) -> Step:
        tape = Tape()
        kept = {name: tensor.clone() for name, tensor in self.state_of(step).items()}
        with tape:
            step()
        for name, tensor in self.state_of(step).items():
            tensor.copy_(kept[name])
        self.tapes.append(tape)

        def repeat() -> None:
            self.repeats += 1
            tape()

        return repeat

    @staticmethod
    def state_of(step: Any) -> dict[str, torch.Tensor]:
        """All that a step changes."""
        batch: Any = step.__closure__[[*step.__code__.co_freevars].index("self")].cell_contents
        own = {f"batch.{name}": value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        states = {
            f"states.{name}": value for name, value in vars(batch._states).items() if isinstance(value, torch.Tensor)
        }
        return own | states


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("tokenizer", ["byte_tokenizer", "piece_tokenizer"])
def test_equal_to_the_reference(
    tiny_model_folder: Path, request: Any, tokenizer: str, name: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = Recordings() if recorded else None
    monkeypatch.setattr("triagekit.decoding.decoder.recorder_for", lambda device: recordings)
    segments = segments_for(request.getfixturevalue(tokenizer), SCHEMAS[name])
    model = sharp_model(tiny_model_folder)
    model.resize_token_embeddings(len(segments.tokenizer) + 7)
    texts = TICKETS + many_tickets(12)
    reference = ReferenceDecoder(model, segments)
    decoder = BatchedDecoder(model, segments, batch_size=5, static=True)
    expected = [reference.decode_one(text) for text in texts]
    assert_equal(decoder.decode(texts), expected)
    # The batch is there already, and so are its recordings.
    assert_equal(decoder.decode(texts[:3]), expected[:3])
    if recordings is not None:
        assert recordings.repeats > 2 * len(recordings.tapes) > 0


@pytest.mark.parametrize(("width", "tokens"), [(1, 1), (2, 1), (3, 2), (40, 40)])
def test_slots_take_turns_where_a_pass_has_no_room_for_all_that_they_emit(
    tiny_model_folder: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, width: int, tokens: int
) -> None:
    monkeypatch.setattr(static_batch, "WIDTH", width)
    monkeypatch.setattr(static_batch, "TOKENS_OF_A_SLOT", tokens)
    monkeypatch.setattr(static_batch, "VIEW", 64)
    segments = segments_for(byte_tokenizer, SCHEMAS["desk"])
    model = sharp_model(tiny_model_folder)
    texts = many_tickets(11)
    reference = ReferenceDecoder(model, segments)
    decoder = BatchedDecoder(model, segments, batch_size=4, static=True)
    assert_equal(decoder.decode(texts), [reference.decode_one(text) for text in texts])
    counts = decoder.counts
    assert counts.rows == 11 and 0 < counts.busy_slot_steps < counts.slot_steps < 4 * counts.passes


def test_a_batch_that_failed_is_not_used_again(
    tiny_model_folder: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS["desk"])
    model = sharp_model(tiny_model_folder)
    texts = many_tickets(9)
    decoder = BatchedDecoder(model, segments, batch_size=4, static=True)
    expected = decoder.decode(texts)
    step, calls = static_batch.StaticBatch._step, []

    def fails_once(batch: static_batch.StaticBatch, view: int) -> None:
        calls.append(view)
        if len(calls) == 5:
            raise RuntimeError("CUDA out of memory (not really)")
        step(batch, view)

    monkeypatch.setattr(static_batch.StaticBatch, "_step", fails_once)
    with pytest.raises(RuntimeError, match="out of memory"):
        decoder.decode(texts)
    assert_equal(decoder.decode(texts), expected)


@pytest.mark.parametrize("broken", ["", "other records", "an error"])
def test_where_no_test_has_run_both_kinds_of_batch_are_compared_first(
    tiny_model_folder: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, broken: str
) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS["desk"])
    model = sharp_model(tiny_model_folder)
    texts = many_tickets(11)
    expected = BatchedDecoder(model, segments, batch_size=4, static=False).decode(texts)
    decoder = BatchedDecoder(model, segments, batch_size=4, static=True)
    decoder._unproven = True  # as on a GPU
    run, ran = static_batch.StaticBatch.run, []

    def watched(batch: static_batch.StaticBatch, rows: Any, results: Any) -> Any:
        ran.append(len(rows))
        counts = run(batch, rows, results)
        if broken == "an error":
            raise RuntimeError("an illegal memory access was encountered")
        if broken:
            results.update({place: replace(record, text="{}") for place, record in results.items()})
        return counts

    monkeypatch.setattr(static_batch.StaticBatch, "run", watched)
    assert_equal(decoder.decode(texts), expected)
    assert_equal(decoder.decode(texts), expected)
    assert ran == ([8] if broken else [8, 11, 11])
    assert ("plain ones are used" in caplog.text) == bool(broken)


def test_what_cannot_be_recorded_is_run_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def recorder(step: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing")

    step = RecordedStep(lambda: done.append(1), recorder)
    for _ in range(5):
        step()
    assert len(done) == 5
    assert caplog.text.count("cannot be recorded") == 1

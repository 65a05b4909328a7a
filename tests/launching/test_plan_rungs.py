"""Settings put on a rung: what stays and what changes."""

from __future__ import annotations

import pytest

from triagekit.errors import TriageError
from triagekit.hardware.ladder import Rung, load_ladder
from triagekit.training.rungs import accumulation, apply_rung, micro_batch
from triagekit.training.settings import TrainSettings


def settings(**changes):
    return TrainSettings.model_validate({"data": "d", "batch": {"effective": 16, "micro": 8, "eval": 32}, **changes})


@pytest.mark.parametrize(
    ("effective", "world", "wanted", "rows"),
    [(16, 1, 8, 8), (16, 2, 16, 8), (16, 1, 5, 4), (12, 2, 4, 3), (7, 1, 6, 1), (6, 3, 100, 2), (4, 4, 2, 1)],
)
def test_the_largest_micro_batch_that_divides(effective, world, wanted, rows):
    assert micro_batch(effective, world, wanted) == rows
    assert effective % (rows * world) == 0


def test_a_world_that_does_not_divide_is_refused_with_the_nearest():
    with pytest.raises(TriageError, match="16 cannot be shared by 3 processes; nearest valid: 15 or 18"):
        micro_batch(16, 3, 4)
    with pytest.raises(TriageError, match="nearest valid: 4"):
        micro_batch(2, 4, 1)


@pytest.mark.parametrize("rung", load_ladder().rungs, ids=lambda rung: rung.name)
def test_every_rung_keeps_what_is_learnt(rung):
    own = settings(seed=7, epochs=2.5, adapter={"method": "hybrid"})
    applied = apply_rung(own, rung, rung.world)
    assert applied.batch.micro * accumulation(applied, rung.world) * rung.world == own.batch.effective
    kept = ("seed", "epochs", "max_steps", "adapter", "optimizer", "base", "data", "sampling", "class_weights")
    for name in kept:
        assert getattr(applied, name) == getattr(own, name)
    assert applied.batch.effective == own.batch.effective
    assert applied.precision == rung.precision
    assert (applied.quantization is not None) == (rung.method == "qlora")


def test_what_the_run_asks_for_itself_is_kept():
    own = settings(precision="fp32", quantization={"bits": 8}, prompt={"max_length": 128}, gradient_checkpointing=True)
    applied = apply_rung(own, load_ladder().rung("4GB"), 1)
    assert applied.precision == "fp32" and applied.quantization.bits == 8 and applied.prompt.max_length == 128
    assert apply_rung(own, load_ladder().rung("1xA100"), 1).gradient_checkpointing is True


def test_small_rungs_measure_with_few_rows_and_shorter_tickets():
    applied = apply_rung(settings(prompt={"max_length": 1024}), load_ladder().rung("4GB"), 1)
    assert (applied.batch.micro, applied.batch.eval, applied.prompt.max_length) == (1, 2, 512)
    assert applied.gradient_checkpointing


def test_a_rung_without_wishes_changes_only_the_precision():
    own = settings()
    rung = Rung(name="plain", memory_gb=1, precision="fp16")
    assert apply_rung(own, rung, 1) == own.model_copy(update={"precision": "fp16"})

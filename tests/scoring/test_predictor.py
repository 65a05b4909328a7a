"""What a predictor can be asked for: fewer fields, smaller weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from scoring_helpers import TICKETS, make_adapter

from triagekit.errors import TriageError
from triagekit.schema import validate_record
from triagekit.scoring.predictor import Predictor


def test_labels_alone_in_eight_bits(adapter: Path) -> None:
    exact = Predictor.from_run(adapter, fields=["labels"])
    small = Predictor.from_run(adapter, fields=["labels"], precision="int8")
    assert exact.schema.field_names == ("category", "subcategory", "priority")
    pairs = list(zip(exact.predict(TICKETS), small.predict(TICKETS), strict=True))
    for one, other in pairs:
        assert other.record is not None and validate_record(small.schema, other.record) == []
        assert other.verdict == "auto"
        # The probabilities of a ticket move a little, and only where two values are close may another one win.
        if one.record == other.record:
            assert other.confidence["category"] == pytest.approx(one.confidence["category"], abs=0.05)
    assert sum(one.record == other.record for one, other in pairs) >= len(pairs) // 2
    assert any(one.confidence != other.confidence for one, other in pairs), "the weights are not the same"


def test_free_writing_has_no_fields(adapter: Path) -> None:
    with pytest.raises(TriageError, match="leave `fields` out"):
        Predictor.from_run(adapter, constrained=False, fields=["category"])


def test_a_base_in_four_bits_with_the_adapter_beside_it(adapter: Path) -> None:
    """QLoRA's arrangement of weights, for any adapter: equal to the reference decoder over the same weights."""
    from triagekit.decoding.reference import ReferenceDecoder

    small = Predictor.from_run(adapter, precision="nf4", device="cpu")
    layers = [type(module).__name__ for module in small.adapter.model.modules()]
    assert "Linear4bit" in layers
    reference = ReferenceDecoder(small.adapter.model, small.adapter.segments)
    for found, text in zip(small.predict(TICKETS), TICKETS, strict=True):
        expected = reference.decode_one(text)
        assert found.record == expected.record
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)


def test_every_weight_trained_leaves_no_base_to_quantise(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "full", tiny_model_folder, method="full")
    with pytest.raises(TriageError, match=r"no base that could be quantised.*triage export merge"):
        Predictor.from_run(folder, precision="nf4", device="cpu")

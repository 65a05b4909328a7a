"""What a predictor can be asked for: fewer fields, smaller weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from scoring_helpers import TICKETS

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

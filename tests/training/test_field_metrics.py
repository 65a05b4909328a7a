"""Accuracy by field from the forward pass of the validation loss: counted right, packed or padded."""

from __future__ import annotations

import pytest
import torch
from training_helpers import SCHEMA, rows

from triagekit.data.rows import Row
from triagekit.modeling.base import load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import PromptSettings
from triagekit.modeling.template import PromptTemplate
from triagekit.training import examples
from triagekit.training.collator import IGNORED, PaddingCollator
from triagekit.training.field_metrics import FieldMetrics
from triagekit.training.packing import SharedPrefixCollator


@pytest.fixture(scope="module")
def built(tiny_model_folder):
    tokenizer = load_tokenizer(str(tiny_model_folder))
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, SCHEMA, PromptSettings(strategy="implicit")))
    data = [Row.from_json(row) for row in rows(7, 1)]
    # Two rows with one instruction, one alone with the third.
    return examples.build_examples(data, segments, split="val", variants=[0, 1, 0, 1, 2, 0, 1], with_fields=True)


@pytest.mark.parametrize("collate", [PaddingCollator(0), SharedPrefixCollator()], ids=["padded", "packed"])
def test_figures_are_those_of_a_count_row_by_row(built, collate):
    """A predictor that is wrong for every token id in a fixed set, counted by hand and by the batch."""
    chance = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(600, generator=chance) < 0.15
    whole, count, right, tokens = ([0] * 3 for _ in range(4))
    for labels, fields in zip(built.columns["labels"], built.columns["fields"], strict=True):
        for field in range(3):
            answers = [not is_wrong[token] for token, owner in zip(labels, fields, strict=True) if owner == field]
            count[field] += 1
            whole[field] += all(answers)
            right[field] += int(sum(answers))
            tokens[field] += len(answers)
    metrics, sums = FieldMetrics(SCHEMA), torch.zeros(12, dtype=torch.float64)
    order = [4, 0, 2, 6, 1, 3, 5]
    for part in (order[:4], order[4:]):
        batch = collate([{name: column[row] for name, column in built.columns.items()} for row in part])
        labels = batch["labels"][:, 1:]
        sums += metrics.counts(batch, ~is_wrong[labels[labels != IGNORED]])
    assert sums.tolist() == [*whole, *count, *right, *tokens]
    assert 0 < whole[1] < 7 and 0 < right[0] < tokens[0]
    assert metrics.figures(sums.tolist()) == {
        "field_token_accuracy/summary": right[0] / tokens[0],
        "value_accuracy/category": whole[1] / 7,
        "value_accuracy/priority": whole[2] / 7,
    }


def test_a_field_without_values_has_no_figure():
    assert FieldMetrics(SCHEMA).figures([0, 2, 0, 0, 4, 0, 0, 6, 0, 0, 8, 0]) == {"value_accuracy/category": 0.5}

"""A share of the rows written without free text: one run that is asked for whole records and for labels alone."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
from training_helpers import SCHEMA

from triagekit.cli.main import main
from triagekit.data.dataset import ProcessedDataset
from triagekit.errors import ProblemsError, TriageError
from triagekit.progress import SilentProgress
from triagekit.schema import TextField
from triagekit.settings import to_yaml
from triagekit.training.collator import IGNORED
from triagekit.training.examples import fields_written
from triagekit.training.inputs import load_inputs

LABELS = ("category", "priority")


def test_which_rows_is_drawn_by_the_seed():
    drawn = fields_written(SCHEMA, 2000, 0.3, 5)
    assert set(drawn) == {None, LABELS}
    assert Counter(drawn)[LABELS] / 2000 == pytest.approx(0.3, abs=0.03)
    assert drawn == fields_written(SCHEMA, 2000, 0.3, 5) != fields_written(SCHEMA, 2000, 0.3, 6)
    assert fields_written(SCHEMA, 4, 0, 5) == [None] * 4


def test_labels_that_cannot_stand_alone():
    labels = tuple(field for field in SCHEMA.fields if not isinstance(field, TextField))
    with pytest.raises(TriageError, match=r"labels_alone_share is 0\.2, but schema 'tiny' has no free text"):
        fields_written(dataclasses.replace(SCHEMA, fields=labels), 4, 0.2, 0)
    with pytest.raises(ProblemsError, match="none is named"):
        fields_written(dataclasses.replace(SCHEMA, fields=SCHEMA.fields[:1]), 4, 0.2, 0)
    with pytest.raises(ProblemsError, match="a value is known by its line alone"):
        fields_written(dataclasses.replace(SCHEMA, format="compact"), 4, 0.2, 0)


def test_training_rows_are_written_so_and_validation_rows_are_not(settings_for, processed):
    settings = settings_for(labels_alone_share=0.5)
    inputs = load_inputs(settings, ProcessedDataset.open(processed), SilentProgress(), print)
    assert set(inputs.fields) == {None, LABELS}
    for row, fields, labels in zip(inputs.train_rows, inputs.fields, inputs.train.columns["labels"], strict=True):
        written = inputs.segments.decode([token for token in labels if token != IGNORED])
        record = json.loads(written.removesuffix("<|im_end|>"))
        assert record == {name: row.record[name] for name in fields or SCHEMA.field_names}
    for labels in inputs.val.columns["labels"]:
        assert '"summary"' in inputs.segments.decode([token for token in labels if token != IGNORED])


def test_a_dry_run_shows_such_a_row(settings_for, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(settings_for(labels_alone_share=0.99, hardware={"rung": "none"})), encoding="utf-8")
    assert main(["train", str(path), "--dry-run", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["row"]["parts"]
    (trained,) = (part["text"] for part in parts if part["trained"])
    assert trained.startswith('{"category":"')

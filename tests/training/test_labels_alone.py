"""A share of the rows written without free text: one run that is asked for whole records and for labels alone."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

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
from triagekit.training.run_folder import ADDED_LATER, RunFolder
from triagekit.training.train import train

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
    with pytest.raises(TriageError, match=r"labels_alone_share is 0\.2, but schema 'tiny' has no labels"):
        fields_written(dataclasses.replace(SCHEMA, fields=SCHEMA.fields[:1]), 4, 0.2, 0)
    with pytest.raises(TriageError, match=r"labels_alone_share is 0\.2, .* a value is known by its line alone.*=json"):
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


def test_it_is_a_condition_of_a_comparison_and_none_where_it_is_off(settings_for, tmp_path, capsys):
    found = []
    for number, share in enumerate((0.0, 0.5)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(to_yaml(settings_for(labels_alone_share=share, hardware={"rung": "none"})), encoding="utf-8")
        assert main(["train", str(path), "--dry-run", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["plan"]["conditions_fingerprint"])
    assert found[0] != found[1]


def test_a_run_from_before_goes_on_and_says_what_it_was(settings_for):
    train(settings_for(max_steps=2))
    folder = RunFolder(Path(settings_for().output) / "run")
    kept = [line for line in folder.config.read_text().splitlines() if "labels_alone_share" not in line]
    folder.config.write_text("\n".join(kept), encoding="utf-8")
    assert train(settings_for(max_steps=2)).is_finished
    assert folder.settings()["labels_alone_share"] == 0.0
    with pytest.raises(ProblemsError, match=r"labels_alone_share: the run has 0\.0, now asked: 0\.3"):
        train(settings_for(max_steps=2, labels_alone_share=0.3))


def test_every_setting_has_been_there_from_the_first_or_is_known_to_be_added_later(settings_for):
    """A run that was begun before a setting came must go on, and be compared: write its value of then into ADDED_LATER."""
    from_the_first = """
        name base data seed output prompt adapter precision quantization optimizer batch epochs max_steps evaluation checkpoints
        loss sampling class_weights max_train_rows gradient_checkpointing log_every_steps report_to hardware
    """
    assert set(settings_for().model_dump()) - set(ADDED_LATER) == set(from_the_first.split())


def test_a_dry_run_shows_such_a_row(settings_for, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(settings_for(labels_alone_share=0.99, hardware={"rung": "none"})), encoding="utf-8")
    assert main(["train", str(path), "--dry-run", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["row"]["parts"]
    (trained,) = (part["text"] for part in parts if part["trained"])
    assert trained.startswith('{"category":"')

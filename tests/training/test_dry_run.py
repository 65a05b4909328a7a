"""`triage train --dry-run`: what a start would do, said truly and without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_helpers import SCHEMA, adapter_bytes, metric_lines

from triagekit.cli.main import main
from triagekit.errors import ProblemsError
from triagekit.modeling.base import load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptTemplate
from triagekit.schema.canonical import canonical_json
from triagekit.settings import to_yaml
from triagekit.training.train import train

CHANGES = {
    "max_steps": 2,
    "log_every_steps": 1,
    "adapter": {"dropout": 0.0},
    "optimizer": {"warmup_share": 0.3},
    "hardware": {"rung": "none"},
}


@pytest.fixture
def config(settings_for, tmp_path):
    def make(**changes):
        path = tmp_path / "mine.yaml"
        path.write_text(to_yaml(settings_for(**{**CHANGES, **changes})), encoding="utf-8")
        return path

    return make


def test_it_says_what_the_run_then_does(config, settings_for, capsys, tmp_path, processed):
    before = sorted(tmp_path.rglob("*"))
    path = config()
    assert main(["train", str(path), "--dry-run", "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])

    notes = []
    run = train(settings_for(**CHANGES), notes=notes.append)
    plan = run.read(run.plan)
    first = plan.pop("first_loss")
    assert plan.pop("warnings") == seen["warnings"] and plan == seen["plan"]
    assert first == seen["first_loss"]
    # The first step has no dropout here, so that its own loss is the one that was foreseen.
    assert metric_lines(run.folder)[0]["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert notes[0].startswith("3 signs of trouble:\n  - Warm-up takes 30.0%") and "has 2 optimizer steps" in notes[0]
    # The tests' base has random weights.
    assert "The loss of the first batch" in notes[0]

    row = next(
        row
        for row in map(json.loads, (Path(processed) / "train.jsonl").read_text(encoding="utf-8").splitlines())
        if row["id"] == seen["row"]["id"]
    )
    trained = [part["text"] for part in seen["row"]["parts"] if part["trained"]]

    assert trained == [canonical_json(SCHEMA, row["record"]) + "<|im_end|>"]
    tokenizer = load_tokenizer(settings_for().base)
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, SCHEMA, settings_for().prompt))
    record = sum(len(ids) for _, ids in segments.record_ids(row["record"]))
    assert seen["row"]["trained_tokens"] == record + len(segments.end_ids) < seen["row"]["tokens"]
    assert row["text"] in "".join(part["text"] for part in seen["row"]["parts"] if not part["trained"])
    assert sum(line["weights"] for line in seen["trainable"]) == plan["trainable"]
    assert sum(line["tensors"] for line in seen["trainable"]) == len(plan["matched"])


def test_people_see_the_trained_tokens_marked_and_every_warning(config, capsys, tmp_path):
    assert main(["train", str(config(batch={"packing": "none"})), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert '«{"summary":"' in said and "<|im_end|>»" in said and said.count("«") == said.count("»") == 2
    assert "q_proj.lora_A" in said and "packing" in said and "ln(" in said and "usual of this base" in said
    assert "3 signs of trouble:" in said and "Set optimizer.warmup_share=0.03." in said
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_another_run_is_refused_as_a_start_would(config, settings_for, capsys):
    from triagekit.training.dry_run import dry_run
    from triagekit.training.ranks import Ranks
    from triagekit.training.run_folder import RunFolder

    settings = settings_for(**CHANGES)
    RunFolder.create(Path(settings.output) / "run", settings.model_dump(mode="json"), to_yaml(settings))
    with pytest.raises(ProblemsError, match="seed: the run has 3, now asked: 4"):
        dry_run(settings_for(**{**CHANGES, "seed": 4}), Ranks(), None, print)


def test_looking_at_the_first_step_changes_nothing_of_the_run(settings_for, monkeypatch):
    """Dropout is on: one random number drawn before the first step would change every weight."""
    from triagekit.training import first_step

    changes = {"max_steps": 3, "adapter": {"dropout": 0.2}, "batch": {"micro": 2}}
    own = first_step.look_at_first_step

    def look_while_training(run):
        run.trainer.network.train()
        said = own(run)
        assert run.trainer.network.training
        run.trainer.network.eval()
        return said

    monkeypatch.setattr(first_step, "look_at_first_step", look_while_training)
    looked = train(settings_for(name="looked", **changes))
    monkeypatch.setattr(first_step, "look_at_first_step", lambda run: "")
    blind = train(settings_for(name="blind", **changes))
    assert "first_loss" in looked.read(looked.plan) and "first_loss" not in blind.read(blind.plan)
    weights = [adapter_bytes(run.folder)["adapter_model.safetensors"] for run in (looked, blind)]
    assert weights[0] == weights[1] and metric_lines(looked.folder) == metric_lines(blind.folder)

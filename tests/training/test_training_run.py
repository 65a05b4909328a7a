"""Whole small runs: what they write, what they learn, when they stop."""

from __future__ import annotations

import json

import pytest
from training_helpers import adapter_bytes, metric_lines, rows, run_in_a_process, write_processed

from triagekit.errors import ProblemsError, TriageError
from triagekit.training.run_folder import RunFolder, list_runs
from triagekit.training.train import train


def test_a_run_writes_its_folder_and_learns(settings_for):
    notes = []
    hybrid = {"method": "hybrid", "dropout": 0.0}
    run = train(settings_for(epochs=6, adapter=hybrid, optimizer={"learning_rate": 1e-2}), notes=notes.append)
    for path in (run.config, run.plan, run.environment, run.metrics, run.summary, run.adapter / "triagekit.json"):
        assert path.is_file(), path
    assert any(run.tensorboard.iterdir())
    summary, plan = run.read(run.summary), run.read(run.plan)
    assert summary["status"] == "finished" and summary["steps"] == plan["steps"] == 36
    assert plan["steps_per_epoch"] == 6 and plan["train"]["rows"] == 44
    assert summary["epochs"] == 6
    assert summary["trained_tokens"] == plan["train"]["trained_tokens"] * 6
    lines = metric_lines(run.folder)
    train_lines = [line for line in lines if line["split"] == "train"]
    val_lines = [line for line in lines if line["split"] == "val"]
    assert len(val_lines) == 4 and [line["step"] for line in val_lines] == [9, 18, 27, 36]
    assert train_lines[-1]["loss"] < 0.6 * train_lines[0]["loss"]
    computation = {"computed_tokens_share", "padding_share"}
    assert set(train_lines[0]) == computation | {
        "step",
        "epoch",
        "split",
        "loss",
        "token_accuracy",
        "learning_rate",
        "gradient_norm",
    }
    # Packed: instructions once for all rows that share them, and no padding.
    assert all(0.5 < line["computed_tokens_share"] < 1 and line["padding_share"] == 0 for line in train_lines)
    by_field = {"value_accuracy/category", "value_accuracy/priority", "field_token_accuracy/summary"}
    assert set(val_lines[0]) == by_field | {"step", "epoch", "split", "loss", "token_accuracy"}
    best = next(line for line in val_lines if line["step"] == summary["best"]["step"])
    assert summary["value_accuracy_val"] == {name: best[f"value_accuracy/{name}"] for name in ("category", "priority")}
    assert summary["field_token_accuracy_val"] == {"summary": best["field_token_accuracy/summary"]}
    assert summary["best"]["value"] == min(line["loss"] for line in val_lines) == summary["val_loss_best"]
    assert summary["peak_memory_bytes"] > 10**8 and summary["rows_per_second"] > 0
    assert json.loads(run.environment.read_text())["starts"][0]["versions"]["torch"]
    assert [note.partition("\n")[0] for note in notes] == ["2 signs of trouble:"] and "36 optimizer steps" in notes[0]


def test_no_file_of_a_run_needs_pickle(settings_for):
    run = train(settings_for())
    endings = {path.suffix for path in run.folder.rglob("*") if path.is_file()}
    assert not endings & {".pt", ".bin", ".pth", ".pkl", ".pickle", ".ckpt"}
    assert ".safetensors" in endings


def test_the_test_split_is_not_read(settings_for, monkeypatch):
    from triagekit.data.dataset import ProcessedDataset

    asked = []
    own = ProcessedDataset.rows
    monkeypatch.setattr(ProcessedDataset, "rows", lambda self, split: asked.append(split) or own(self, split))
    train(settings_for(max_steps=2))
    assert set(asked) == {"train", "val"}


def test_a_finished_run_is_returned_at_once(settings_for):
    settings = settings_for(max_steps=2)
    first = train(settings)
    before = first.summary.read_bytes()
    notes = []
    assert train(settings, notes=notes.append).summary.read_bytes() == before
    assert notes == [f"{first.folder} is already finished."]


def test_other_settings_in_the_same_folder_are_refused_key_by_key(settings_for):
    train(settings_for(max_steps=2))
    with pytest.raises(ProblemsError) as caught:
        train(settings_for(max_steps=2, seed=4, optimizer={"learning_rate": 1e-3}))
    text = str(caught.value)
    assert "seed: the run has 3, now asked: 4" in text and "optimizer.learning_rate" in text
    assert "epochs" not in text


def test_changed_input_is_refused_when_a_run_goes_on(settings_for, tmp_path, processed):
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(processed, copy)
    settings = settings_for(data=str(copy))
    run = RunFolder(tmp_path / "runs" / "run")
    run_in_a_process(settings, watch=lambda: any(run.checkpoints.glob("checkpoint-*")))
    plan = json.loads(run.plan.read_text())
    run.plan.write_text(json.dumps({**plan, "data_fingerprint": "0" * 16}))
    with pytest.raises(ProblemsError, match="data fingerprint: was 0000000000000000"):
        train(settings)


def test_the_same_seed_gives_the_same_run_and_another_does_not(settings_for, tmp_path):
    runs = [train(settings_for(name=name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]
    assert metric_lines(runs[0].folder) == metric_lines(runs[1].folder)
    summaries = [run.read(run.summary) for run in runs]
    assert len({summary["conditions_fingerprint"] for summary in summaries}) == 1
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "hybrid"},
        {"method": "hybrid", "head": "output_tokens"},
        {"method": "full"},
        {"method": "lora", "dora": True},
    ],
    ids=lambda adapter: "-".join(str(value) for value in adapter.values()),
)
def test_every_method_trains_and_saves(settings_for, adapter):
    run = train(settings_for(adapter=adapter, optimizer={"learning_rate": 1e-3}))
    plan, summary = run.read(run.plan), run.read(run.summary)
    kinds = {item["kind"] for item in plan["matched"]}
    assert kinds == {"lora": {"lora"}, "hybrid": {"lora", "head", "norm"}, "full": {"weight"}}[adapter["method"]]
    lines = [line["loss"] for line in metric_lines(run.folder) if line["split"] == "val"]
    assert lines[-1] < lines[0]
    assert summary["method"] == adapter["method"]


def test_the_adapter_is_the_best_checkpoint_not_the_last(settings_for):
    # A rate that ruins the model at once: the first weights stay the best for a while.
    settings = settings_for(
        adapter={"method": "full"},
        optimizer={"learning_rate": 0.2, "max_grad_norm": 0.0, "schedule": "constant", "warmup_share": 0.0},
        max_steps=6,
        evaluation={"every_share": 1 / 6},
    )
    run = train(settings)
    summary = run.read(run.summary)
    val = {line["step"]: line["loss"] for line in metric_lines(run.folder) if line["split"] == "val"}
    assert summary["best"]["step"] == min(val, key=val.get) < summary["steps"]
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.adapter_folder import load_adapter
    from triagekit.training import examples
    from triagekit.training.collator import PaddingCollator
    from triagekit.training.loss import compute_losses_in_forward, token_losses

    loaded = load_adapter(run.adapter)
    rows = ProcessedDataset.open(settings.data).rows("val")
    built = examples.build_examples(rows, loaded.segments, split="val", variants=[0] * len(rows))
    compute_losses_in_forward(loaded.model)
    batch = PaddingCollator(0)(
        [{key: column[row] for key, column in built.columns.items()} for row in range(len(built))]
    )
    assert token_losses(loaded.model, batch).negative_log_likelihood.mean().item() == pytest.approx(
        val[summary["best"]["step"]], rel=1e-4
    )


def test_early_stopping_ends_a_run_that_gets_no_better(settings_for):
    stop = {"every_share": 0.05, "early_stopping": {"patience": 2, "threshold": 10.0}}
    run = train(settings_for(epochs=10, evaluation=stop))
    summary = run.read(run.summary)
    # No gain can reach a threshold of 10 nats, so the third measurement is the second without improvement.
    assert summary["stopped_early"] and summary["steps"] == 9 < summary["steps_planned"]


def test_a_subset_is_drawn_by_seed(settings_for):
    run = train(settings_for(max_train_rows=16, max_steps=2))
    assert run.read(run.plan)["train"]["rows"] == 16


def test_over_long_tickets_are_counted_and_said(settings_for, tmp_path):
    long = [{**row, "text": row["text"] + " and more" * 200} for row in rows(8, 5)]
    data = write_processed(tmp_path / "long", {"train": [*rows(8, 6), *long], "val": rows(4, 7)})
    notes = []
    run = train(settings_for(data=str(data), max_steps=2), notes=notes.append)
    assert run.read(run.summary)["tickets_cut"] == 8
    assert "8 of 16 training tickets" in notes[0]
    assert run.read(run.plan)["train"]["tokens_max"] <= 256


def test_without_validation_rows_the_last_weights_are_kept(settings_for, tmp_path):
    notes = []
    data = write_processed(tmp_path / "noval", {"train": rows(16, 6)})
    run = train(settings_for(data=str(data)), notes=notes.append)
    assert run.read(run.summary)["best"] is None and "no validation rows" in notes[0]


def test_unknown_fields_and_values_are_named_before_anything_is_loaded(settings_for):
    with pytest.raises(ProblemsError) as caught:
        train(settings_for(class_weights={"categori": "balanced", "priority": {"Hihg": 2.0}, "summary": "balanced"}))
    text = str(caught.value)
    assert "Did you mean 'category'?" in text and "Did you mean 'High'?" in text and "'summary' is no field" in text


def test_two_processes_cannot_work_on_one_run(settings_for):
    settings = settings_for(max_steps=2)
    run = RunFolder.create(__import__("pathlib").Path(settings.output) / "run", settings.model_dump(mode="json"), "")
    run.config.write_text(__import__("triagekit.settings", fromlist=["x"]).to_yaml(settings))
    with run.lock(), pytest.raises(TriageError, match="Another process"):
        train(settings)


def test_class_weights_and_balanced_sampling_train(settings_for):
    run = train(
        settings_for(
            max_steps=4,
            class_weights={"category": "balanced", "priority": {"High": 3.0}},
            sampling={"strategy": "balanced", "field": "category"},
        )
    )
    weights = run.read(run.plan)["class_weights"]
    assert weights["priority"] == {"High": 3.0} and set(weights["category"]) == {"Hardware", "Software", "Network"}


def test_a_quantised_base_trains_and_goes_on_exactly(settings_for):
    changes = {"quantization": {"bits": 4}, "checkpoints": {"every_steps": 2, "keep": 2}}
    whole = train(settings_for(name="whole", **changes))
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    assert run_in_a_process(settings, watch=lambda: (run.checkpoints / "checkpoint-6").is_dir()) == -9
    train(settings)
    assert metric_lines(run.folder) == metric_lines(whole.folder)
    assert adapter_bytes(run.folder) == adapter_bytes(whole.folder)


def test_bfloat16_keeps_the_trained_weights_in_float32(settings_for):
    from safetensors.torch import load_file

    run = train(settings_for(precision="bf16", adapter={"method": "hybrid"}))
    tensors = load_file(str(run.adapter / "adapter_model.safetensors"))
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float32"}
    losses = [line["loss"] for line in metric_lines(run.folder) if line["split"] == "val"]
    assert losses[-1] < losses[0]


def test_float16_without_a_gpu_is_refused_with_advice(settings_for):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TriageError, match="precision: auto"):
        train(settings_for(precision="fp16"))


def test_gradient_checkpointing_gives_the_same_weights(settings_for):
    runs = [
        train(settings_for(name=str(on), gradient_checkpointing=on, max_steps=3, adapter={"dropout": 0.0}))
        for on in (False, True)
    ]
    assert metric_lines(runs[0].folder) == [
        {
            **line,
            "loss": pytest.approx(line["loss"], rel=1e-5),
            "gradient_norm": pytest.approx(line["gradient_norm"], rel=1e-4),
        }
        if line["split"] == "train"
        else {**line, "loss": pytest.approx(line["loss"], rel=1e-5)}
        for line in metric_lines(runs[1].folder)
    ]


def test_the_compact_format_from_training_to_records(settings_for, processed):
    """The same data in both formats: the same schema, fewer tokens, and records that are the same JSON."""
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.adapter_folder import load_adapter
    from triagekit.schema import canonical_json, validate_record
    from triagekit.scoring.predictor import Predictor

    whole = train(settings_for(name="json", max_steps=2))
    run = train(settings_for(name="compact", prompt={"record_format": "compact"}, max_steps=8))
    plan, whole_plan = run.read(run.plan), whole.read(whole.plan)
    assert plan["schema_fingerprint"] == whole_plan["schema_fingerprint"]
    assert plan["template_fingerprint"] != whole_plan["template_fingerprint"]
    assert plan["train"]["trained_tokens"] < 0.8 * whole_plan["train"]["trained_tokens"]
    adapter = load_adapter(run.adapter)
    assert adapter.schema.format == "compact" and "format: compact" in (run.adapter / "schema.yaml").read_text()
    texts = [row.text for row in ProcessedDataset.open(processed).rows("test")]
    for prediction in Predictor.from_run(run.folder).predict(texts):
        assert prediction.record is not None and validate_record(adapter.schema, prediction.record) == []
        assert prediction.text == canonical_json(adapter.schema, prediction.record)
    free = Predictor.from_run(run.folder, constrained=False).predict(texts)
    assert len(free) == len(texts) and all(prediction.verdict for prediction in free)

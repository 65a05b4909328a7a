"""Run folders made by hand: metrics and predictions with differences that are known because they were planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from triagekit.data.rows import Row
from triagekit.evaluation.evaluate import METRICS, PREDICTIONS
from triagekit.evaluation.metrics import evaluate_table
from triagekit.evaluation.table import PredictionTable
from triagekit.files.atomic import write_json, write_jsonl
from triagekit.schema import load_schema
from triagekit.schema.yaml_text import schema_yaml

TICKETS = [
    "Laptop will not boot after the update, screen stays black. I have a meeting at 10.",
    "No puedo acceder a la VPN desde casa, pide el token y lo rechaza.",
    "Please give <b>Anna</b> access to the finance share & the mailbox 'invoices'",
    "Printer on floor 3 jams on every second page",
    "URGENT!!! wifi down in building B, 40 people cannot work",
    "Received a mail that asks for my password, clicked the link <script>alert(1)</script>",
    "Meeting room 4.12: projector lamp is broken",
]


def gold_rows(schema, count, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        record = {}
        for field in schema.fields:
            if not hasattr(field, "values"):
                record[field.name] = f"ticket number {number} about something"
            elif hasattr(field, "parent"):
                record[field.name] = str(generator.choice(field.values_by_parent[record[field.parent]]))
            else:
                weights = np.arange(len(field.values), 0, -1.0)
                record[field.name] = str(generator.choice(field.values, p=weights / weights.sum()))
        language = "es" if number % 7 == 1 else "en"
        rows.append(
            Row(f"t{number:05d}", f"{TICKETS[number % len(TICKETS)]} (#{number})", record, {"language": language})
        )
    return rows


def predictions(schema, rows, accuracy, seed, difficulty_seed=0):
    """Each label field right with chance `accuracy`, harder tickets wrong for everyone; confidences that are about true."""
    hard = np.random.default_rng(difficulty_seed).normal(0, 1, len(rows))
    generator = np.random.default_rng([seed, 99])
    shift = np.log(accuracy / (1 - accuracy)) * 1.6
    result = []
    for row, difficulty in zip(rows, hard, strict=True):
        record, confidence = {}, {}
        for field in schema.fields:
            gold = row.record[field.name]
            logit = shift - 1.5 * difficulty + generator.normal(0, 1)
            right = logit > generator.logistic(0, 0.3)
            if not hasattr(field, "values"):
                record[field.name] = gold if right else "something else about a ticket"
                confidence[field.name] = 0.2
                continue
            values = field.values_by_parent[record[field.parent]] if hasattr(field, "parent") else field.values
            others = [value for value in values if value != gold]
            keep = (right and gold in values) or not others
            record[field.name] = gold if keep and gold in values else str(generator.choice(others or list(values)))
            confidence[field.name] = float(np.clip(1 / (1 + np.exp(-abs(logit))) + generator.normal(0, 0.03), 0.2, 1))
        result.append(
            {
                "record": record,
                "confidence": confidence,
                "verdict": "auto",
                "text": json.dumps(record),
            }
        )
    return result


def make_run(
    folder: Path,
    method="lora",
    seed=1,
    accuracy=0.8,
    rows=None,
    schema_name="it_tickets",
    count=300,
    config=None,
    summary=None,
    evaluated=True,
    noise_seed=None,
    steps=100,
    slower=1.0,
):
    """A finished run by the letter of the run folder's format. `config` and `summary` replace dotted / plain keys."""
    schema = load_schema(schema_name)
    rows = rows if rows is not None else gold_rows(schema, count)
    folder.mkdir(parents=True)
    settings = {
        "name": folder.name,
        "base": "embedded",
        "data": str(folder.parent.parent / "data"),
        "seed": seed,
        "output": str(folder.parent),
        "prompt": {"strategy": "explicit", "max_length": 512},
        "adapter": {"method": method, "r": 16, "alpha": 32, "dropout": 0.0, "targets": "all-linear", "head": "all"},
        "precision": "auto",
        "quantization": None,
        "optimizer": {"name": "adamw", "learning_rate": 0.002, "schedule": "cosine", "betas": [0.9, 0.999]},
        "batch": {"effective": 16, "micro": 8, "eval": 32},
        "epochs": 3.0,
        "max_steps": None,
        "evaluation": {"every_share": 0.1, "best_metric": "loss", "early_stopping": None},
        "checkpoints": {"every_steps": None, "keep": 2},
        "max_train_rows": None,
    }
    for key, value in (config or {}).items():
        place = settings
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    generator = np.random.default_rng(seed)
    lines, floor = [], 1.0 - accuracy
    for step in range(5, steps + 1, 5):
        loss = floor + 2.5 * np.exp(-step * 4 / steps) + generator.normal(0, 0.04)
        lines.append({"step": step, "epoch": 3 * step / steps, "split": "train", "loss": loss, "token_accuracy": 1 - loss / 4,
                      "learning_rate": 1e-3, "gradient_norm": 1.0, "tokens_per_second": 9000.0})  # fmt: skip
        if step % 10 == 0:
            held_out = floor + 0.1 + 2.4 * float(np.exp(-step * 4 / steps))
            lines.append({"step": step, "split": "val", "loss": held_out, "token_accuracy": 1 - held_out / 4})
    write_jsonl(folder / "metrics.jsonl", lines)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "schema.yaml").write_text(schema_yaml(schema))
    trainable = {"lora": 155_648, "hybrid": 1_206_016, "full": 4_200_000}.get(method, 155_648)
    figures = {
        "name": folder.name, "status": "finished", "method": method, "base": "embedded", "base_fingerprint": "b" * 16,
        "data": settings["data"], "data_fingerprint": "d" * 16, "schema": schema.name,
        "schema_fingerprint": schema.fingerprint, "template_fingerprint": "e" * 16, "seed": seed, "steps": steps,
        "epochs": 3.0, "effective_batch": 16, "train_rows": 1600, "trainable": trainable, "total": 4_200_000 + trainable,
        "share": trainable / (4_200_000 + trainable), "best": {"step": steps, "metric": "loss", "value": floor + 0.14},
        "train_loss_last": floor, "val_loss_best": floor + 0.14, "token_accuracy_val": 0.94 - floor / 4,
        "seconds": 61.0 * slower, "peak_memory_bytes": int(700e6 * slower), "rows_per_second": 78.0 / slower,
        "trained_tokens": 90_000, "tickets_cut": 0, "versions": {"torch": "2.9.0", "peft": "0.19.0"},
        "hardware": {"device": "cpu", "cores": 2}, "conditions_fingerprint": "c" * 16,
    }  # fmt: skip
    write_json(folder / "summary.json", figures | (summary or {}))
    if evaluated:
        guesses = predictions(schema, rows, accuracy, seed if noise_seed is None else noise_seed)
        write_evaluation(folder / "eval" / "test", schema, rows, guesses, valid_before=0.9)
    return folder


def write_evaluation(folder, schema, rows, guesses, valid_before=None, **extra):
    table = PredictionTable.build(schema, rows, guesses)
    table.write(folder / PREDICTIONS, {})
    free = None if valid_before is None else {"value": valid_before, "low": 0.85, "high": 0.94, "rows": 200}
    metrics = {
        "split": "test",
        **evaluate_table(schema, table, resamples=100),
        "valid_before_constraint": free,
        "data_fingerprint": "d" * 16,
        **extra,
    }
    write_json(folder / METRICS, metrics)


def make_baselines(data: Path, rows, accuracy=0.7, schema_name="it_tickets"):
    schema = load_schema(schema_name)
    for name, share in (("majority", 0.3), ("tfidf_linear", accuracy)):
        guesses = predictions(schema, rows, share, 1234)
        write_evaluation(data / "baselines" / name, schema, rows, guesses, baseline=name, train_rows=1600)
    write_json(data / "manifest.json", {"name": "fake"})

"""Model cards: what a run's files say, and nothing that they do not."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from export_helpers import SECRET

from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import evaluate_run
from triagekit.export.model_card import adapter_card
from triagekit.export.public import is_hub_id, public_base, public_settings
from triagekit.export.source import open_run


@pytest.fixture
def run(lora_run, tmp_path):
    shutil.copytree(lora_run, tmp_path / "lora-seed0")
    return tmp_path / "lora-seed0"


def front_matter(card):
    return yaml.safe_load(card.split("---")[1])


def rename_base(run, base):
    path = run / "adapter" / "triagekit.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base": base}))


def test_an_unevaluated_run_says_so(run, tiny_model_folder):
    card = adapter_card(open_run(run))
    assert "Not evaluated." in card and "Do not use it before that is done" in card
    assert SECRET not in card and str(run.parent) not in card and str(tiny_model_folder.parent) not in card
    head = front_matter(card)
    assert head["library_name"] == "peft" and "lora" in head["tags"]
    # A licence is the owner's to give, and a folder's name is no model of a hub.
    assert "license" not in head and "base_model" not in head
    assert "The licence of the base" in card


def test_metrics_come_with_their_intervals(run):
    metrics = evaluate_run(run, limit=5, free_sample=0)
    card = adapter_card(open_run(run))
    accuracy = metrics["fields"]["category"]["accuracy"]
    shown = (
        f"{accuracy['value']:.1%}".replace("%", " %") + f" [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
    )
    assert f"| `category` | {shown} |" in card
    assert "the first 5 of 8 tickets" in card and "Not evaluated" not in card


def test_metrics_of_other_weights_are_refused(run):
    evaluate_run(run, limit=3, free_sample=0)
    path = run / "eval" / "test" / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "adapter_fingerprint": "other"}))
    with pytest.raises(TriageError, match="triage evaluate"):
        adapter_card(open_run(run))


def test_a_base_on_a_hub_is_named_for_the_hub(run):
    rename_base(run, "Qwen/Qwen2.5-0.5B-Instruct")
    card = adapter_card(open_run(run))
    head = front_matter(card)
    assert head["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert 'from_pretrained("Qwen/Qwen2.5-0.5B-Instruct"' in card


def test_schema_data_and_training_are_told(run):
    source = open_run(run)
    card = adapter_card(source)
    assert "| `kind` | one value, which ones depends on `category` | 3 |" in card
    assert "| `tags` | up to 2 tags | 2 |" in card
    assert source.card["data_fingerprint"] in card and "24 train, 10 val" in card
    assert "lora, r 2, alpha 4, rslora" in card and "learning rate 0.002" in card
    assert f"transformers {source.card['versions']['transformers']}" in card


def test_names_without_places(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert public_base(str(tmp_path / "models" / "mine")) == "mine"
    assert public_base("/gone/models/mine") == public_base("~/models/mine") == "mine"
    assert public_base("embedded") == "embedded" and not is_hub_id("embedded")
    assert public_base("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B" and is_hub_id("Qwen/Qwen2.5-0.5B")
    settings = {"data": "/home/me/data/desk", "output": "/home/me/runs", "base": "/home/me/base", "seed": 1}
    assert public_settings(settings) == {"data": "desk", "output": "runs", "base": "base", "seed": 1}

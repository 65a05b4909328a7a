"""Adapter folders: PEFT alone gives the run's logits, whatever triagekit keeps in files of its own."""

from __future__ import annotations

import json

import pytest
import torch
from export_helpers import holds_nothing_private, logits_of, prompts_of

from triagekit.errors import TriageError
from triagekit.export import peft_folder
from triagekit.export.peft_folder import export_adapter
from triagekit.modeling.adapter_folder import load_adapter

KINDS = {
    "dora": {"dora": True, "r": 4},
    "hybrid": {"method": "hybrid"},
    "rows": {"method": "hybrid", "head": "output_tokens", "targets": ["q_proj", "v_proj"]},
    "pissa": {"pissa": True, "rslora": True},
    "pissa rows": {"pissa": True, "rslora": False, "alpha": 3, "method": "hybrid", "head": "output_tokens"},
}
CONVERTED = {"rows": 1, "pissa": 1, "pissa rows": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_alone_gives_the_runs_logits(kind, run_of, tiny_model_folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = run_of(f"{kind}-seed0", **KINDS[kind])
    record = export_adapter(run, tmp_path / "adapter")
    assert len(record["converted"]) == CONVERTED.get(kind, 0)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    untouched = [logits_of(base, ids) for ids in prompts_of(run)]
    plain = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ours = load_adapter(run / "adapter", precision="fp32", device="cpu").model
    for ids, before in zip(prompts_of(run), untouched, strict=True):
        expected = logits_of(ours, ids)
        assert torch.allclose(logits_of(plain, ids), expected, atol=3e-5)
        assert (before - expected).abs().max() > 0.1
    # triagekit opens what it has written for others, conversions included.
    again = load_adapter(tmp_path / "adapter", str(tiny_model_folder), "fp32", "cpu").model
    assert torch.allclose(logits_of(again, ids), expected, atol=3e-5)
    assert holds_nothing_private(tmp_path / "adapter", run.parent, tiny_model_folder.parent) == []
    assert json.loads((tmp_path / "adapter" / "export.json").read_text()) == record


def test_a_fully_trained_run_is_no_adapter(run_of, tmp_path):
    run = run_of("full-seed0", method="full")
    with pytest.raises(TriageError, match="triage export merge"):
        export_adapter(run, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_that_peft_reads_otherwise_is_refused(run_of, tmp_path, monkeypatch):
    run = run_of("pissa-seed0", **KINDS["pissa"])
    monkeypatch.setattr(peft_folder, "_plain_update", lambda weights, initial, scaling: weights)
    with pytest.raises((TriageError, RuntimeError)):
        export_adapter(run, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_logits_decide(lora_run, tmp_path, monkeypatch):
    real = peft_folder.write_tensors

    def off_by_little(path, tensors):
        real(path, {name: tensor * 1.01 for name, tensor in tensors.items()})

    monkeypatch.setattr(peft_folder, "write_tensors", off_by_little)
    with pytest.raises(TriageError, match="PEFT alone gives other logits"):
        export_adapter(lora_run, tmp_path / "adapter")

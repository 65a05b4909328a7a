"""Merged folders: opened by transformers alone, by triagekit, evaluated again, and refused where they are wrong."""

from __future__ import annotations

import json

import pytest
import torch
from export_helpers import holds_nothing_private, logits_of, prompts_of

from triagekit.errors import TriageError
from triagekit.export import merged_folder
from triagekit.export.merged_folder import export_merged
from triagekit.modeling.adapter_folder import load_adapter
from triagekit.scoring.predictor import Predictor


@pytest.fixture(scope="module")
def merged(hybrid_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "model"
    return out, export_merged(hybrid_run, out, dtype="fp32", check_rows=6)


def test_transformers_alone_opens_it_to_the_adapters_logits(merged, hybrid_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = merged
    plain = AutoModelForCausalLM.from_pretrained(out)
    adapter = load_adapter(hybrid_run / "adapter", precision="fp32", device="cpu").model
    for ids in prompts_of(hybrid_run):
        assert torch.allclose(logits_of(plain, ids), logits_of(adapter, ids), atol=2e-5)
    # The tied head was trained: it is a tensor of its own now, and the configuration says so.
    assert plain.config.tie_word_embeddings is False
    assert not torch.equal(plain.lm_head.weight, plain.model.embed_tokens.weight)
    assert (out / "generation_config.json").is_file()
    assert AutoTokenizer.from_pretrained(out)("VPN")["input_ids"]


def test_trained_rows_of_a_tied_head_become_a_head_of_its_own(run_of, tmp_path):
    from transformers import AutoModelForCausalLM

    run = run_of("rows-seed0", method="hybrid", head="output_tokens", targets=["q_proj", "v_proj"])
    export_merged(run, tmp_path / "merged", dtype="fp32", check_rows=1)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapter = load_adapter(run / "adapter", precision="fp32", device="cpu").model
    assert torch.allclose(logits_of(plain, prompts_of(run)[0]), logits_of(adapter, prompts_of(run)[0]), atol=2e-5)
    assert plain.config.tie_word_embeddings is False


def test_the_record_compares_before_and_after(merged, hybrid_run):
    out, record = merged
    assert record == json.loads((out / "export.json").read_text())
    card = json.loads((hybrid_run / "adapter" / "triagekit.json").read_text())
    assert record["adapter_fingerprint"] == card["fingerprint"]
    assert record["base_fingerprint"] == card["base_fingerprint"]
    assert record["schema_fingerprint"] == card["schema_fingerprint"]
    check = record["check"]
    assert (check["split"], check["rows"], check["as_trained"]) == ("val", 6, None)
    assert check["adapter_on_base"]["loss"] == pytest.approx(check["merged"]["loss"], abs=1e-5)
    assert set(check["merged"]["fields"]) == {"summary", "category", "kind", "priority", "tags"}
    assert check["merged"]["fields"] == check["adapter_on_base"]["fields"]
    assert check["difference"]["records_changed"] == 0
    assert 0 <= check["difference"]["max_logit"] < 1e-4
    assert record["warnings"] == []


def test_nothing_private_travels(merged, hybrid_run, tiny_model_folder):
    out, _ = merged
    assert holds_nothing_private(out, hybrid_run.parent, tiny_model_folder.parent, out.parent) == []
    # The check can fail: the run itself does keep tickets.
    assert holds_nothing_private(hybrid_run)


def test_triagekit_predicts_with_the_folder_as_with_the_run(merged, hybrid_run):
    texts = ["VPN is down since this morning", "The printer on floor 3 is dead"]
    ours = Predictor.from_run(merged[0], device="cpu").predict(texts)
    theirs = Predictor.from_run(hybrid_run, device="cpu").predict(texts)
    assert [each.record for each in ours] == [each.record for each in theirs]
    assert ours[0].confidence == pytest.approx(theirs[0].confidence, abs=1e-4)
    with pytest.raises(TriageError, match="Leave --base out"):
        Predictor.from_run(merged[0], base="embedded")


def test_it_is_a_base_to_train_on(merged):
    from export_helpers import SCHEMA

    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.settings import PromptSettings
    from triagekit.modeling.template import PromptTemplate

    out, _ = merged
    tokenizer = load_tokenizer(str(out))
    template = PromptTemplate(tokenizer, SCHEMA, PromptSettings(max_length=384, strategy="implicit"))
    stored = json.loads((out / "triagekit.json").read_text())
    assert template.fingerprint == stored["template_fingerprint"]
    assert load_base(str(out), device="cpu").get_input_embeddings().weight.shape[1] == 64


def test_a_changed_weight_is_noticed_at_loading(merged, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(merged[0], copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(TriageError, match="does not go with"):
        load_adapter(copy)


def test_a_quantised_run_is_merged_into_the_plain_base_and_compared_with_both(run_of, tmp_path):
    run = run_of("qlora-seed0", quantization={"bits": 4, "type": "nf4"})
    record = export_merged(run, tmp_path / "merged", dtype="bf16", check_rows=4)
    check = record["check"]
    assert check["as_trained"]["quantization"]["type"] == "nf4"
    assert check["as_trained"]["loss"] != check["adapter_on_base"]["loss"]
    # What quantising cost is larger than what rounding to bf16 costs, and rounding is not nothing.
    assert check["difference_to_as_trained"]["max_logit"] > check["difference"]["max_logit"] > 0
    assert check["merging_error"] < check["difference"]["max_logit"]
    from safetensors.torch import load_file

    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_without_the_data_it_says_what_was_not_compared(lora_run, tmp_path, monkeypatch):
    def gone(*_):
        raise TriageError("data/desk is not a processed data set.")

    monkeypatch.setattr(merged_folder, "open_data", gone)
    record = export_merged(lora_run, tmp_path / "merged")
    assert record["check"]["rows"] == 0
    assert "not a processed data set" in record["check"]["not_on_tickets_because"]
    assert "Not compared on tickets" in record["warnings"][0]
    assert record["check"]["difference"]["max_logit"] < 1e-4
    assert record["dtype"] == "fp32"
    with pytest.raises(TriageError, match="not a processed data set"):
        export_merged(lora_run, tmp_path / "other", data=tmp_path)


def test_what_got_worse_is_said():
    def record(loss, whole, field, as_trained=None):
        before = {"loss": 1.0, "all_label_fields": 0.5, "fields": {"kind": 0.8}}
        after = {"loss": loss, "all_label_fields": whole, "fields": {"kind": field}}
        check = {"rows": 64, "adapter_on_base": before, "merged": after, "as_trained": as_trained}
        return merged_folder._warnings({"dtype": "bf16", "check": check})

    assert record(1.005, 0.5, 0.76) == []
    for worse in ((1.02, 0.5, 0.8), (1.0, 0.48, 0.8), (1.0, 0.5, 0.7)):
        assert "Rounding the merged weights to bf16" in record(*worse)[0]
    better = {"loss": 0.9, "all_label_fields": 0.5, "fields": {"kind": 0.8}}
    assert "un-quantised base" in record(1.0, 0.5, 0.8, better)[0]


def test_a_wrong_merge_leaves_nothing(lora_run, tmp_path, monkeypatch):
    from triagekit.modeling.merge import merge_adapter

    def wrong(model):
        merged = merge_adapter(model)
        merged.model.layers[0].mlp.up_proj.weight.data[0] += 0.5
        return merged

    monkeypatch.setattr(merged_folder, "merge_adapter", wrong)
    with pytest.raises(TriageError, match="not the adapter on its base"):
        export_merged(lora_run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_numbers_too_large_for_the_type_are_refused(lora_run, tmp_path, monkeypatch):
    real = merged_folder.check_merge

    def grown(loaded, before):
        error = real(loaded, before)
        loaded.model.model.norm.weight.data[0] = 1e6
        return error

    monkeypatch.setattr(merged_folder, "check_merge", grown)
    with pytest.raises(TriageError, match="too large for fp16"):
        export_merged(lora_run, tmp_path / "merged", dtype="fp16")


def test_another_folder_is_not_written_over(lora_run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TriageError, match="holds something that is no merged export"):
        export_merged(lora_run, tmp_path)
    with pytest.raises(TriageError, match="is a file"):
        export_merged(lora_run, tmp_path / "notes.txt")
    with pytest.raises(TriageError, match="No run at"):
        export_merged(tmp_path / "none", tmp_path / "out")

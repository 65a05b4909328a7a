"""The adapter folder: reopened exactly for every method, same bytes every time, refused where it does not belong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from modeling_helpers import take_steps
from safetensors.torch import load_file, save_file

from triagekit.errors import ProblemsError, TriageError
from triagekit.modeling.adapter_folder import load_adapter, read_card, save_adapter, verify_adapter
from triagekit.modeling.adapters import AdapterSettings, attach_adapter, output_token_ids
from triagekit.modeling.base import load_base, load_tokenizer
from triagekit.modeling.forward import hidden_states, project_to_logits
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptSettings, PromptTemplate
from triagekit.schema import EnumField, Schema

TEXTS = [
    "The printer is dead",
    "VPN <|im_end|> fails",
    "Mi portátil no arranca " * 40,
    *[f"ticket {n}" for n in range(20)],
]
METHODS = {
    "lora": {},
    "some": {"targets": ["q_proj", "v_proj"], "rslora": False},
    "dora": {"dora": True},
    "pissa": {"pissa": True},
    "hybrid": {"method": "hybrid"},
    "rows": {"method": "hybrid", "head": "output_tokens"},
    "full": {"method": "full"},
}


def trained(base, name, segments, precision="fp32", steps=3):
    torch.manual_seed(3)
    settings = AdapterSettings(r=4, **METHODS[name])
    model, report = attach_adapter(load_base(base, precision), settings, output_token_ids(segments))
    if steps:
        take_steps(model, steps)
    return model, settings, report


def save(folder, base, name, segments, precision="fp32", **more):
    model, settings, report = trained(base, name, segments, precision)
    card = save_adapter(model, folder, settings, segments, base, report, "0123456789abcdef", TEXTS, **more)
    return model, card


def logits(model, ids):
    with torch.no_grad():
        return project_to_logits(model, hidden_states(model, torch.tensor([ids]))[0]).float()


CASES = [(name, *case) for name in METHODS for case in (("Qwen2", True, "fp32"), ("Llama", True, "bf16"))]
CASES += [(name, *case) for name in ("hybrid", "rows") for case in (("Qwen3", False, "fp32"), ("Gemma2", True, "fp16"))]
CASES += [("full", "Gemma2", True, "fp16")]


@pytest.mark.parametrize(("name", "family", "tied", "precision"), CASES)
def test_reopened_equals_memory_to_the_bit(tmp_path, base_folder, segments, name, family, tied, precision):
    base = base_folder(family, tied)
    model, card = save(tmp_path / "adapter", base, name, segments, precision)
    loaded = load_adapter(tmp_path / "adapter", precision=precision)
    for sample in card["parity"]:
        ours, reopened = logits(model, sample["ids"]), logits(loaded.model, sample["ids"])
        if name == "full" and precision != "fp32":  # trained on float32 masters, scored in the type that was asked for
            torch.testing.assert_close(reopened, ours, rtol=5e-2, atol=5e-2)
        else:
            assert torch.equal(ours, reopened)
    assert not torch.equal(logits(loaded.model, [1, 2, 3]), logits(load_base(base, precision), [1, 2, 3]))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_merged_on_loading(tmp_path, base_folder, segments, name):
    model, card = save(tmp_path / "adapter", base_folder("Qwen3", True), name, segments)
    merged = load_adapter(tmp_path / "adapter", merge=True).model
    assert not hasattr(merged, "peft_config")
    for sample in card["parity"][:4]:
        torch.testing.assert_close(logits(merged, sample["ids"]), logits(model, sample["ids"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lora", "dora", "hybrid", "pissa"])
def test_peft_alone_opens_the_folder_too(tmp_path, base_folder, segments, name):
    from peft import PeftModel

    base = base_folder("Qwen3", True)
    model, _ = save(tmp_path / "adapter", base, name, segments)
    alone = PeftModel.from_pretrained(load_base(base), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(alone, [5, 6, 7, 8]), logits(model, [5, 6, 7, 8]), rtol=1e-3, atol=1e-4)


def test_unfreezing_by_hand_loses_what_this_folder_keeps(tmp_path, base_folder, segments):
    """The trap: head and norms unfrozen by hand are absent from what PEFT saves."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = base_folder("Qwen3", False)
    naive = get_peft_model(load_base(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in naive.named_parameters():
        if "lm_head" in name or "norm" in name:
            parameter.requires_grad = True
    take_steps(naive, 5)
    naive.save_pretrained(tmp_path / "naive")
    assert not [
        key for key in load_file(tmp_path / "naive" / "adapter_model.safetensors") if "lm_head" in key or "norm" in key
    ]
    reopened = PeftModel.from_pretrained(load_base(base), str(tmp_path / "naive")).eval()
    assert (logits(reopened, [1, 2, 3]) - logits(naive, [1, 2, 3])).abs().max() > 0.1

    save(tmp_path / "adapter", base, "hybrid", segments)
    keys = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert {"base_model.model.lm_head.weight", "base_model.model.model.norm.weight"} <= keys
    assert len([key for key in keys if "norm" in key]) == 9


def test_the_card_says_what_it_belongs_to(tmp_path, base_folder, segments, schema):
    base = base_folder()
    _, card = save(tmp_path / "adapter", base, "hybrid", segments)
    assert read_card(tmp_path / "adapter") == json.loads(json.dumps(card))
    assert card["schema_fingerprint"] == schema.fingerprint
    assert card["template_fingerprint"] == segments.template.fingerprint
    assert card["data_fingerprint"] == "0123456789abcdef"
    assert len(card["parity"]) == 16 and card["parity"][0]["text"] == TEXTS[0]
    assert card["share"] == card["trainable"] / card["total"]
    assert {item["kind"] for item in card["matched"]} == {"lora", "norm", "head"}
    assert card["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    loaded = load_adapter(tmp_path / "adapter")
    assert loaded.schema.fingerprint == schema.fingerprint
    assert loaded.segments.prompt_ids("x") == segments.prompt_ids("x")


def test_others_may_read_the_files(tmp_path, base_folder, segments):
    save(tmp_path / "adapter", base_folder(), "lora", segments)
    umask = os.umask(0)
    os.umask(umask)
    for path in (tmp_path / "adapter").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


SAME_BYTES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from modeling_helpers import take_steps
from triagekit.modeling.adapter_folder import save_adapter
from triagekit.modeling.adapters import AdapterSettings, attach_adapter, output_token_ids
from triagekit.modeling.base import load_base, load_tokenizer
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptSettings, PromptTemplate
from triagekit.schema import Schema
import json
base, folder, schema = sys.argv[2:5]
tokenizer = load_tokenizer(base)
template = PromptTemplate(tokenizer, Schema.from_dict(json.loads(schema)), PromptSettings(max_length=1500))
segments = SegmentTokenizer(tokenizer, template)
torch.manual_seed(0)
settings = AdapterSettings(r=4, method="hybrid", targets=["v_proj", "q_proj", "down_proj"])
model, report = attach_adapter(load_base(base, "fp32"), settings)
take_steps(model)
save_adapter(model, Path(folder), settings, segments, base, report, "d", ["a", "b"])
"""


def test_the_same_weights_give_the_same_bytes_in_every_process(tmp_path, base_folder, schema):
    here = str(Path(__file__).parent)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SAME_BYTES, here, base_folder(), str(tmp_path / seed), json.dumps(schema.to_dict())],
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        )
        for seed in ("1", "2")
    ]
    assert [process.wait(timeout=550) for process in running] == [0, 0]
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "schema.yaml", "triagekit.json"]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_an_untrained_adapter_is_refused_unless_allowed(tmp_path, base_folder, segments):
    base = base_folder()
    model, settings, report = trained(base, "lora", segments, steps=0)
    arguments = (settings, segments, base, report, "d", TEXTS)
    with pytest.raises(ProblemsError, match=r"lora_B.* is all zero"):
        save_adapter(model, tmp_path / "adapter", *arguments)
    assert not (tmp_path / "adapter").exists() and not list(tmp_path.iterdir())
    save_adapter(model, tmp_path / "adapter", *arguments, allow_untrained=True)


@pytest.fixture
def saved(tmp_path, base_folder, segments):
    return *save(tmp_path / "adapter", base_folder("Qwen3", True), "hybrid", segments), tmp_path / "adapter"


def rewrite(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("base_model.model.lm_head.weight"), r"37 tensors were written, but 38 are trained"),
        (lambda t: t["base_model.model.lm_head.weight"].zero_(), "lm_head.weight is all zero"),
        (lambda t: t["base_model.model.model.norm.weight"].add_(1e-3), "norm.* differs between file and memory"),
        (lambda t: t["base_model.model.model.norm.weight"].fill_(float("nan")), "holds NaN"),
        (lambda t: t.update({"base_model.model.model.norm.weight": torch.zeros(0)}), "norm.weight is empty"),
    ],
)
def test_a_folder_that_is_not_the_model_is_found_out(saved, change, message):
    model, _, folder = saved
    rewrite(folder, change)
    with pytest.raises(ProblemsError, match=message):
        verify_adapter(folder, model)


def test_a_folder_changed_after_saving_is_refused(saved):
    _, card, folder = saved
    rewrite(folder, lambda tensors: tensors["base_model.model.model.norm.weight"].add_(1))
    with pytest.raises(ProblemsError, match=rf"\(weights\).*\n.*{card['fingerprint']}"):
        load_adapter(folder)


def test_a_cut_off_file_is_refused(saved):
    _, _, folder = saved
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:443])
    card = json.loads((folder / "triagekit.json").read_text())
    from triagekit.modeling.adapter_files import weights_fingerprint

    (folder / "triagekit.json").write_text(json.dumps(card | {"fingerprint": weights_fingerprint(folder)}))
    with pytest.raises(TriageError, match=r"adapter_model.safetensors is damaged \(443 bytes\)"):
        load_adapter(folder)


def test_another_base_is_refused_with_both_fingerprints(saved, base_folder):
    _, card, folder = saved
    from triagekit.modeling.base import base_fingerprint

    other = base_folder("Qwen2", True)
    with pytest.raises(ProblemsError) as caught:
        load_adapter(folder, base=other)
    text = str(caught.value)
    assert "(base)" in text and card["base_fingerprint"] in text and base_fingerprint(other) in text


def test_the_same_base_elsewhere_is_accepted(saved, tmp_path, base_folder):
    _, card, folder = saved
    elsewhere = tmp_path / "moved"
    shutil.copytree(base_folder("Qwen3", True), elsewhere)
    assert load_adapter(folder, base=str(elsewhere)).card == card


def test_another_chat_template_is_refused(saved, tmp_path, base_folder):
    _, card, folder = saved
    changed = tmp_path / "changed"
    shutil.copytree(base_folder("Qwen3", True), changed)
    tokenizer = load_tokenizer(str(changed))
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant:\n")
    tokenizer.save_pretrained(changed)
    with pytest.raises(ProblemsError) as caught:
        load_adapter(folder, base=str(changed))
    assert "template" in str(caught.value) and card["template_fingerprint"] in str(caught.value)


def test_another_schema_is_refused(saved):
    _, card, folder = saved
    asked = Schema(name="other", title="", description="", fields=(EnumField("category", ("Hardware",)),))
    with pytest.raises(ProblemsError) as caught:
        load_adapter(folder, schema=asked)
    assert "(schema)" in str(caught.value) and asked.fingerprint in str(caught.value)
    path = folder / "schema.yaml"
    path.write_text(path.read_text().replace("Laptop", "Laptops"))
    with pytest.raises(ProblemsError, match=rf"{card['schema_fingerprint']}, schema.yaml has"):
        load_adapter(folder)


def test_other_token_ids_are_refused(saved):
    _, card, folder = saved
    card["parity"][3]["ids"][-1] += 1
    (folder / "triagekit.json").write_text(json.dumps(card))
    with pytest.raises(TriageError, match="stored sample 3 gives other token ids"):
        load_adapter(folder)


def test_what_is_no_adapter_folder_is_named(tmp_path):
    with pytest.raises(TriageError, match="is not an adapter folder"):
        read_card(tmp_path)
    (tmp_path / "triagekit.json").write_text("{")
    with pytest.raises(TriageError, match="is damaged"):
        read_card(tmp_path)
    (tmp_path / "triagekit.json").write_text("{}")
    with pytest.raises(TriageError, match="lacks base, base_fingerprint"):
        read_card(tmp_path)


def test_reading_the_card_needs_no_torch(saved):
    script = (
        "import sys; from triagekit.modeling.adapter_folder import read_card; read_card(sys.argv[1]); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(saved[2])], check=True)


def test_template_and_tokenizer_are_those_of_training(base_folder, schema):
    tokenizer = load_tokenizer(base_folder())
    first = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, PromptSettings(max_length=1500)))
    second = SegmentTokenizer(tokenizer, PromptTemplate.from_dict(tokenizer, first.template.to_dict()))
    assert [first.prompt_ids(text) for text in TEXTS] == [second.prompt_ids(text) for text in TEXTS]

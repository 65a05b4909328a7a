"""Bases: found, refused with advice, loaded in the asked-for type, recognised by content."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from triagekit.errors import TriageError
from triagekit.modeling import base as base_module
from triagekit.modeling import precision as precision_module
from triagekit.modeling.base import EMBEDDED, base_fingerprint, load_base, load_tokenizer, resolve_base
from triagekit.modeling.precision import resolve_precision
from triagekit.modeling.settings import QuantizationSettings


def test_a_half_precision_file_loads_as_float32(base_folder):
    folder = base_folder("Qwen2", True, "float16")
    model = load_base(folder, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32} and not model.training
    assert {p.dtype for p in load_base(folder, "bf16", device="cpu").parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("./nowhere", "there is no such folder"),
        ("/nowhere/at/all", "there is no such folder"),
        (
            "nobody/no-such-model",
            r"not in the local hub cache and this process is offline.*hf download nobody/no-such-model",
        ),
    ],
)
def test_a_missing_base_says_what_to_do(base, message):
    for use in (load_base, load_tokenizer, base_fingerprint):
        with pytest.raises(TriageError, match=message):
            use(base)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(TriageError, match=r"holds no config\.json"):
        resolve_base(str(tmp_path))


def test_pickled_weights_are_never_loaded(base_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(base_folder(), folder)
    torch.save(load_base(base_folder()).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TriageError, match="cannot be loaded"):
        load_base(str(folder))
    with pytest.raises(TriageError, match="Only safetensors weights are loaded"):
        base_fingerprint(str(folder))


def test_the_fingerprint_is_of_content(base_folder, tmp_path):
    original = base_fingerprint(base_folder())
    shutil.copytree(base_folder(), tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").write_text("no part of the model")
    assert base_fingerprint(str(tmp_path / "copy")) == original
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        changed = tmp_path / name
        shutil.copytree(base_folder(), changed)
        content = bytearray((changed / name).read_bytes())
        content[-3] ^= 1
        (changed / name).write_bytes(content)
        assert base_fingerprint(str(changed)) != original, name


def test_sharded_weights_count_and_must_be_complete(base_folder, tmp_path):
    folder = tmp_path / "sharded"
    load_base(base_folder()).save_pretrained(folder, max_shard_size="60KB")
    load_tokenizer(base_folder()).save_pretrained(folder)
    shards = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(shards) > 1
    before = base_fingerprint(str(folder))
    last = folder / max(shards)
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    assert base_fingerprint(str(folder)) != before
    last.unlink()
    with pytest.raises(TriageError, match=f"1 of {len(shards)} weight files are missing"):
        base_fingerprint(str(folder))


def test_a_hub_id_is_fingerprinted_by_its_snapshot(base_folder, tmp_path, monkeypatch):
    """The cache's layout: snapshots of links to blobs, large blobs named by their SHA-256."""
    from pathlib import Path

    from triagekit.files.fingerprint import sha256_file

    cache = tmp_path / "models--own--tiny"
    snapshot = cache / "snapshots" / "c0ffee"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (cache / "refs" / "main").write_text("c0ffee")
    for path in Path(base_folder()).iterdir():
        blob = cache / "blobs" / sha256_file(path)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert base_fingerprint("own/tiny") == base_fingerprint(base_folder())


def test_a_pad_token_is_ensured_without_adding_one(base_folder, tmp_path):
    folder = tmp_path / "padless"
    shutil.copytree(base_folder(), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token is not None
    assert len(tokenizer) == len(load_tokenizer(base_folder()))


@pytest.mark.parametrize("quantization", [None, QuantizationSettings(bits=4)], ids=["plain", "4 bits"])
def test_weights_that_the_files_lack_are_not_drawn_at_random(base_folder, tmp_path, quantization):
    broken = tmp_path / "broken"
    shutil.copytree(base_folder("Qwen2"), broken)
    load_base(str(broken), "fp32", quantization, "cpu")
    weights = load_file(broken / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(TriageError, match=r"3 of the \d+ tensors .*first model.layers.1.mlp.down_proj.weight"):
        load_base(str(broken), "fp32", quantization, "cpu")


def test_a_missing_embedded_base_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(base_module, "_EMBEDDED_FOLDER", tmp_path)
    with pytest.raises(TriageError, match="missing from this installation"):
        resolve_base(EMBEDDED)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float16)],
)
def test_auto_knows_cards_that_only_emulate_bf16(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")
    assert resolve_precision("auto", "cuda") == expected
    if expected is torch.float16:
        with pytest.raises(TriageError, match=r"Tesla T4.*would emulate it. Set precision: fp16"):
            resolve_precision("bf16", "cuda")
    else:
        assert resolve_precision("bf16", "cuda") == torch.bfloat16


def test_precision_on_cpu_and_unknown_names():
    assert resolve_precision("auto", "cpu") == torch.float32
    assert resolve_precision("bf16", "cpu") == torch.bfloat16
    assert precision_module.precision_name(torch.float16) == "fp16"
    with pytest.raises(TriageError, match="Did you mean 'fp16'"):
        resolve_precision("pf16", "cpu")

"""GGUF files: transformers' own reader and llama.cpp itself find in them the model that was merged."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from export_helpers import holds_nothing_private, logits_of, make_run, prompts_of
from gguf_bases import make_llama, make_pieces, make_qwen3
from llama_cpp import ask

from triagekit.errors import TriageError
from triagekit.export import gguf_file
from triagekit.export.gguf_file import export_gguf
from triagekit.export.gguf_model import halves, neighbours
from triagekit.export.gguf_tokenizer import _scores, pre_tokenizer_name
from triagekit.modeling.adapter_folder import load_adapter

gguf = pytest.importorskip("gguf")
TEXTS = [
    "The printer's dead since 12:45 on 2024-01-31, error 0x80070005!!!",
    "  ¿Pueden ayudarme?\n\n\tGracias, Zoë 🖨️ 日本語  ",
    'say "hi" <|im_end|> {"a":1}',
]
KINDS = {
    "qwen2": "f32", "qwen2_f16": "f16", "qwen2_q8": "q8_0", "qwen3": "q8_0", "llama": "f16", "llama_q8": "q8_0",
    "llama3": "f32", "pieces": "f32",
}  # fmt: skip
PRE = {"qwen2": "qwen2", "qwen3": "qwen2", "llama": "llama-bpe", "pieces": "default"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, export_data, hybrid_run, tiny_model_folder):
    place = tmp_path_factory.mktemp("families")
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 128}
    bases = {
        "qwen3": make_qwen3(place / "qwen3", tiny_model_folder),
        "llama": make_llama(place / "llama"),
        "pieces": make_pieces(place / "pieces"),
        "llama3": make_llama(place / "llama3", attention_bias=True, rope_parameters=llama3),
    }
    made = {name: make_run(place / "runs" / name, export_data, base) for name, base in bases.items()}
    return {**made, "qwen2": hybrid_run}


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    records = {name: export_gguf(runs[run_of(name)], folder / f"{name}.gguf", kind) for name, kind in KINDS.items()}
    return folder, records


def run_of(name):
    """`qwen2_f16` is a file of the run `qwen2`."""
    return name.partition("_")[0]


@pytest.fixture(scope="module")
def merged(runs):
    return {
        name: load_adapter(run / "adapter", precision="fp32", device="cpu", merge=True) for name, run in runs.items()
    }


@pytest.mark.parametrize("name", [name for name in KINDS if name != "llama3"])
def test_transformers_reads_the_file_to_the_same_logits(name, exported, merged, runs):
    """An independent reader: names, order of rows, tied heads and figures are its own business. (It knows nothing of
    Llama's biases and lowered frequencies, which llama.cpp checks below.)"""
    from transformers import AutoModelForCausalLM

    folder, records = exported
    family = run_of(name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{name}.gguf", dtype=torch.float32).eval()
    for ids in prompts_of(runs[family]):
        expected = logits_of(merged[family].model, ids)
        tolerance = {"f32": 2e-5, "f16": 5e-3, "q8_0": 0.1}[records[name]["type"]]
        assert torch.allclose(logits_of(model, ids), expected, atol=tolerance), name
    assert records[name]["pre_tokenizer"] == PRE[family]


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no wheel of llama.cpp here")
@pytest.mark.parametrize("name", KINDS)
def test_llama_cpp_computes_what_the_merged_model_does(name, exported, merged, runs):
    folder, _ = exported
    family = run_of(name)
    loaded = merged[family]
    prompts = prompts_of(runs[family])[:2]
    tokenised = [loaded.tokenizer(text, add_special_tokens=True)["input_ids"] for text in TEXTS]
    # The server holds back halves of characters, with their probabilities; random weights would write little else.
    vocabulary = loaded.model.config.vocab_size
    halved = [token for token in range(vocabulary) if not (loaded.tokenizer.decode([token]) or "�").isascii()]
    options = {"logit_bias": [[token, False] for token in halved]}
    questions = [{"prompt": ids, "tokens": 8, "options": options} for ids in prompts]
    questions += [{"prompt": text, "tokens": 1, "options": options} for text in TEXTS]
    answers = ask(folder / f"{name}.gguf", questions)
    tolerance = 0.05 if KINDS[name] == "q8_0" else 2e-3
    for ids, answer in zip(prompts, answers, strict=False):
        logits = logits_of(loaded.model, [*ids, *answer["tokens"]])
        expected = torch.log_softmax(logits[len(ids) - 1 : -1], -1)
        for step, top in enumerate(answer["logprobs"][: len(expected)]):
            for token, logprob in top.items():
                assert abs(expected[step][int(token)].item() - logprob) < tolerance
        # What it chose is the likeliest, or another that is as likely within what the two may differ by.
        expected[:, halved] = -torch.inf
        chosen = expected.gather(1, torch.tensor(answer["tokens"])[:, None])[:, 0]
        assert float((expected.amax(-1) - chosen).max()) < 2 * tolerance
    # Text that goes in as text is cut into as many tokens, and is followed by what follows them.
    for ids, answer in zip(tokenised, answers[len(prompts) :], strict=True):
        assert answer["prompt_tokens"] == len(ids)
        expected = torch.log_softmax(logits_of(loaded.model, ids)[-1], -1)
        assert all(
            abs(expected[int(token)].item() - value) < tolerance for token, value in answer["logprobs"][0].items()
        )


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no wheel of llama.cpp here")
def test_llama_cpp_takes_the_schema_of_the_file(exported):
    path = exported[0] / "qwen2.gguf"
    schema = json.loads(gguf.GGUFReader(path).fields["triagekit.schema.json_schema"].contents())
    free, held = ask(
        path, [{"prompt": "VPN", "tokens": 30, "options": extra} for extra in ({}, {"json_schema": schema})]
    )
    # Random weights begin no JSON by themselves. A schema with a word that llama.cpp does not know holds nothing.
    assert not free["text"].lstrip().startswith("{")
    assert held["text"].lstrip().startswith("{")


def test_the_record_and_the_file_say_what_it_is(exported, runs, tiny_model_folder):
    folder, records = exported
    record = records["qwen3"]
    assert json.loads((folder / "qwen3.gguf.json").read_text()) == record
    # Rows of 48 are no whole blocks of 32: they stay f16; rows of 64 and 96 are stored in q8_0.
    assert record["tensors_by_type"] == {"f32": 9, "f16": 11, "q8_0": 4}
    assert 0 < record["check"]["max_logit"] < 0.2 and record["check"]["same_next_token"] > 0.9
    assert records["qwen2"]["check"]["max_logit"] == 0.0
    reader = gguf.GGUFReader(folder / "qwen2.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    card = json.loads((runs["qwen2"] / "adapter" / "triagekit.json").read_text())
    assert fields["triagekit.adapter_fingerprint"] == card["fingerprint"]
    assert fields["triagekit.prompt.prefix"] == card["prompt"]["prefixes"][0]
    assert json.loads(fields["triagekit.schema.json_schema"])["properties"].keys() >= {"summary", "tags"}
    assert fields["tokenizer.ggml.eot_token_id"] == card["prompt"]["end_of_turn_id"]
    # The trained head is a tensor of its own beside the embedding.
    assert {"output.weight", "token_embd.weight"} <= {tensor.name for tensor in reader.tensors}
    assert holds_nothing_private(folder, runs["qwen2"].parent, tiny_model_folder.parent) == []


def test_fillers_and_special_tokens_have_their_types(exported):
    reader = gguf.GGUFReader(exported[0] / "llama.gguf")
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(types) == reader.fields["llama.vocab_size"].contents()
    assert types[:5] == [int(gguf.TokenType.CONTROL)] * 5
    assert types[-4:] == [int(gguf.TokenType.UNUSED)] * 4
    assert reader.fields["tokenizer.ggml.add_bos_token"].contents() is True


def test_a_merged_folder_gives_the_same_file(hybrid_run, exported, tmp_path):
    from triagekit.export.merged_folder import export_merged

    export_merged(hybrid_run, tmp_path / "merged", dtype="fp32", check_rows=1)
    record = export_gguf(tmp_path / "merged", tmp_path / "m.gguf", "f32")
    direct = exported[1]["qwen2"]
    same = ("run", "adapter_fingerprint", "base", "base_fingerprint", "architecture", "tensors", "bytes")
    assert {key: record[key] for key in same} == {key: direct[key] for key in same}


def test_pairs_of_halves_and_of_neighbours():
    weight = torch.arange(8.0)[:, None]
    assert neighbours(weight, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(halves(neighbours(weight, 2), 2), weight)


def test_a_file_that_is_not_the_model_is_refused(lora_run, tmp_path, monkeypatch):
    real = gguf_file._stored

    def off(tensor, chosen):
        data = real(tensor, chosen).copy()
        if tensor.name == "blk.1.attn_k.weight":
            data[0] *= 1.01
        return data

    monkeypatch.setattr(gguf_file, "_stored", off)
    with pytest.raises(TriageError, match=r"blk\.1\.attn_k\.weight was read back with an error"):
        export_gguf(lora_run, tmp_path / "x.gguf", "f16")
    assert list(tmp_path.iterdir()) == []


def test_what_the_format_does_not_hold_is_said(lora_run, tmp_path, monkeypatch, merged):
    with pytest.raises(TriageError, match=r"ends in \.gguf"):
        export_gguf(lora_run, tmp_path / "x.bin")
    config = merged["qwen2"].model.config
    for key, value, said in (("model_type", "mistral", "families qwen2"), ("hidden_act", "gelu", "hidden_act gelu")):
        other = type(config)(**config.to_dict())
        setattr(other, key, value)
        with pytest.raises(TriageError, match=said):
            gguf_file.architecture(other)
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(TriageError, match="pip install gguf"):
        export_gguf(lora_run, tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("pre", "model", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, {}, "gpt-2"),
        ({"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, {}, None),
        ({"type": "Metaspace"}, {}, None),
        ({"type": "ByteLevel", "add_prefix_space": False}, {"type": "WordPiece"}, None),
        ({"type": "ByteLevel", "add_prefix_space": False}, {"ignore_merges": True}, None),
    ],
)
def test_a_splitting_rule_has_a_name_or_is_refused(pre, model, name):
    content = {"model": {"type": "BPE", **model}, "pre_tokenizer": pre}
    if name is None:
        with pytest.raises(TriageError, match="llama-bpe: Llama 3"):
            pre_tokenizer_name(content)
    else:
        assert pre_tokenizer_name(content) == name


def test_pieces_have_the_scores_of_their_order():
    vocabulary = {"a": 0, "b": 1, "ab": 2, "aba": 3, "c": 4}
    joins = [("a", "b"), ("ab", "a")]
    assert _scores(vocabulary, joins, 6) == [0.0, 0.0, -1.0, -2.0, 0.0, 0.0]
    # llama.cpp would join b + ab too, which this tokenizer does not.
    with pytest.raises(TriageError, match=r"joins 'bab' in some ways only, not of b \+ ab"):
        _scores({**vocabulary, "ba": 5, "bab": 6}, [*joins, ("b", "a"), ("a", "ba"), ("ba", "b")], 7)

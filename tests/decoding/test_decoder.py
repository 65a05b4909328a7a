"""The batched decoder writes what the slow one writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_helpers import SCHEMAS, TICKETS, many_tickets, segments_for

from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.free import generate_free
from triagekit.decoding.grammar import RecordGrammar
from triagekit.decoding.kernels import packed_attention
from triagekit.decoding.record import DecodedRecord
from triagekit.decoding.reference import ReferenceDecoder
from triagekit.errors import TriageError
from triagekit.schema import validate_record
from triagekit.schema.subset import select_fields


@pytest.fixture(params=["kernels", "torch"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a CPU attends; a GPU takes the second."""
    if request.param == "torch":
        for module in ("packed_attention", "pointwise", "text_choice"):
            monkeypatch.setattr(f"triagekit.decoding.kernels.{module}.library", lambda name: None)


def sharp_model(folder: Path, seed: int = 0, **config: Any) -> Any:
    """A random model whose choices are far apart, so that rounding cannot turn one into another."""
    from triagekit.modeling.base import load_base

    model = load_base(str(folder), device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if "embed" in name else 0.15)
    return model.eval()


def assert_equal(ours: list[DecodedRecord], reference: list[DecodedRecord]) -> None:
    for number, (one, other) in enumerate(zip(ours, reference, strict=True)):
        assert one.text == other.text, number
        assert one.record == other.record
        assert (one.tokens, one.ticket_tokens_cut) == (other.tokens, other.ticket_tokens_cut)
        for name, value in other.confidence.items():
            assert one.confidence[name] == pytest.approx(value, abs=1e-4)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("tokenizer", ["byte_tokenizer", "piece_tokenizer"])
def test_equal_to_the_reference(tiny_model_folder: Path, request: Any, tokenizer: str, name: str) -> None:
    segments = segments_for(request.getfixturevalue(tokenizer), SCHEMAS[name])
    model = sharp_model(tiny_model_folder)
    model.resize_token_embeddings(len(segments.tokenizer) + 7)
    texts = TICKETS + many_tickets(5)
    reference = ReferenceDecoder(model, segments)
    found = BatchedDecoder(model, segments, batch_size=8).decode(texts)
    assert_equal(found, [reference.decode_one(text) for text in texts])
    assert all(validate_record(segments.schema, item.record) == [] for item in found)
    assert len({item.text for item in found}) > 2


def test_a_ticket_that_was_cut_says_so_and_stays_equal(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS["desk"], max_length=200)
    model = sharp_model(tiny_model_folder)
    texts = ["word " * 500, "short"]
    found = BatchedDecoder(model, segments).decode(texts)
    assert found[0].ticket_tokens_cut > 100 and found[1].ticket_tokens_cut == 0
    assert_equal(found, [ReferenceDecoder(model, segments).decode_one(text) for text in texts])


@pytest.mark.usefixtures("loops")
def test_the_batch_a_ticket_is_in_does_not_change_its_record(
    tiny_model_folder: Path, byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS["corners"])
    model = sharp_model(tiny_model_folder, seed=1)
    texts = many_tickets(40)
    together = BatchedDecoder(model, segments, batch_size=40).decode(texts)
    alone = BatchedDecoder(model, segments, batch_size=1).decode(texts)
    backwards = BatchedDecoder(model, segments, batch_size=7).decode(texts[::-1])[::-1]
    assert_equal(together, alone)
    assert_equal(together, backwards)
    monkeypatch.setattr("triagekit.decoding.batch._PROMPT_TOKENS", 150)
    decoder = BatchedDecoder(model, segments, batch_size=40)
    assert_equal(decoder.decode(texts), together)
    assert decoder.counts.prompt_tokens > 10 * 150
    if packed_attention.library("packed_attention") is None:
        assert decoder.counts.padded_prompt_tokens > decoder.counts.prompt_tokens
    else:
        assert decoder.counts.padded_prompt_tokens == decoder.counts.prompt_tokens


def test_the_model_attends_as_before_afterwards(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS["labels"])
    model = sharp_model(tiny_model_folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    BatchedDecoder(model, segments).decode(TICKETS)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_forced_record_has_confidence_one_and_a_choice_less(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    found = BatchedDecoder(sharp_model(tiny_model_folder), segments_for(byte_tokenizer, SCHEMAS["labels"])).decode(
        ["x"]
    )
    assert found[0].confidence["only"] == 1.0
    assert 0 < found[0].confidence["risk"] < 1


def test_confidences_of_all_values_add_up_to_one(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    """The probability of a value is what a walk forced along it would multiply to: over all values it sums to 1."""
    from triagekit.decoding.grammar import RecordGrammar

    segments = segments_for(byte_tokenizer, SCHEMAS["corners"])
    grammar = RecordGrammar.compile(segments)
    model = sharp_model(tiny_model_folder)
    prompt = segments.prompt_ids("the printer is dead")
    total = 0.0
    values = set()
    waiting: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    while waiting:
        taken, probability = waiting.pop()
        walk = grammar.start()
        for token in taken:
            walk.advance(token)
        if walk.field != 0 and "first" in walk.record():
            total += probability
            values.add(walk.record()["first"])
            continue
        allowed = torch.from_numpy(walk.allowed())
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *grammar.start_ids, *taken]])).logits[0, -1]
        shares = torch.softmax(logits[allowed], 0).tolist()
        waiting.extend(((*taken, int(t)), probability * s) for t, s in zip(allowed, shares, strict=True))
    assert total == pytest.approx(1.0, abs=1e-5)
    assert len(values) == 8


def test_free_generation_is_greedy_and_stops_at_the_end_of_turn(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS["labels"])
    model = sharp_model(tiny_model_folder)
    written = generate_free(model, segments, TICKETS, max_new_tokens=9, batch_size=3)
    for text, found in zip(TICKETS, written, strict=True):
        ids = segments.prompt_ids(text)
        expected: list[int] = []
        while len(expected) < 9:
            with torch.inference_mode():
                token = int(model(input_ids=torch.tensor([ids + expected])).logits[0, -1].argmax())
            if token == segments.template.end_of_turn_id:
                break
            expected.append(token)
        assert found == segments.decode(expected)


@pytest.mark.usefixtures("loops")
def test_sliding_windows_are_honoured(byte_tokenizer: Any) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=len(byte_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=24,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    segments = segments_for(byte_tokenizer, SCHEMAS["labels"])
    found = BatchedDecoder(model, segments, batch_size=4).decode(TICKETS)
    assert_equal(found, [ReferenceDecoder(model, segments).decode_one(text) for text in TICKETS])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma3Text", "Olmo2", "Phi3"])
def test_architectures_of_the_hubs(byte_tokenizer: Any, family: str) -> None:
    """Grouped heads, norms of queries, windows in some layers only, layers that norm after they attend, fused products."""
    import transformers

    torch.manual_seed(4)
    name = family.removesuffix("Text")
    extra: dict[str, Any] = {"sliding_window": 24} if name == "Gemma3" else {}
    if name in {"Qwen3", "Gemma3"}:
        extra["head_dim"] = 16
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(
        vocab_size=len(byte_tokenizer),
        hidden_size=64 if name in {"Llama", "Olmo2"} else 32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4 if name == "Llama" else 2,
        initializer_range=0.3,
        pad_token_id=0,
        **extra,
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    segments = segments_for(byte_tokenizer, SCHEMAS["labels"])
    found = BatchedDecoder(model, segments, batch_size=4).decode(TICKETS)
    assert_equal(found, [ReferenceDecoder(model, segments).decode_one(text) for text in TICKETS])
    assert len({round(item.confidence["risk"], 3) for item in found}) > 1


def test_a_model_with_another_kind_of_attention_is_refused(byte_tokenizer: Any) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=len(byte_tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(TriageError, match="packed rows"):
        BatchedDecoder(MambaForCausalLM(config), segments_for(byte_tokenizer, SCHEMAS["labels"]))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "count"), [("desk", 1000), ("labels", 300), ("corners", 300)])
def test_equal_to_the_reference_on_many_tickets(
    tiny_model_folder: Path, byte_tokenizer: Any, name: str, count: int
) -> None:
    segments = segments_for(byte_tokenizer, SCHEMAS[name])
    model = sharp_model(tiny_model_folder, seed=2)
    texts = many_tickets(count)
    reference = ReferenceDecoder(model, segments)
    assert_equal(BatchedDecoder(model, segments).decode(texts), [reference.decode_one(text) for text in texts])


def test_some_fields_only(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    """Fields that are left out cost nothing, and what is written is what the reference writes for those fields."""
    segments = segments_for(byte_tokenizer, SCHEMAS["desk"])
    schema = select_fields(segments.schema, ["labels"])
    assert schema.field_names == ("category", "subcategory", "priority")
    model = sharp_model(tiny_model_folder)
    grammar = RecordGrammar.compile(segments, schema)
    decoder = BatchedDecoder(model, segments, grammar=grammar)
    found = decoder.decode(TICKETS)
    reference = ReferenceDecoder(model, segments, grammar)
    assert_equal(found, [reference.decode_one(text) for text in TICKETS])
    assert all(validate_record(schema, item.record) == [] for item in found)
    assert decoder.counts.passes < 20, "one pass a choice, and none for free text"
    with pytest.raises(TriageError, match="Did you mean 'priority'") as unknown:
        select_fields(segments.schema, ["prioritty", "subcategory"])
    assert "depend on 'category'" in str(unknown.value)


def test_labels_before_the_text_are_the_same_without_it(tiny_model_folder: Path, byte_tokenizer: Any) -> None:
    whole = SCHEMAS["desk"]
    text, *labels = whole.fields
    segments = segments_for(byte_tokenizer, dataclasses.replace(whole, fields=(*labels, text)))
    model = sharp_model(tiny_model_folder)
    alone = RecordGrammar.compile(segments, select_fields(segments.schema, ["labels"]))
    found = BatchedDecoder(model, segments, grammar=alone).decode(TICKETS)
    for item, other in zip(found, BatchedDecoder(model, segments).decode(TICKETS), strict=True):
        assert {**other.record, **item.record} == other.record
        for field in labels:
            assert item.confidence[field.name] == pytest.approx(other.confidence[field.name], abs=1e-5)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_ticket_takes_a_pass_for_each_choice_and_each_token_of_text(
    tiny_model_folder: Path, byte_tokenizer: Any, name: str
) -> None:
    """The reference computes nothing for a token that is the only one allowed."""
    segments = segments_for(byte_tokenizer, SCHEMAS[name])
    model = sharp_model(tiny_model_folder)
    for text in many_tickets(4):
        decoder = BatchedDecoder(model, segments)
        decoder.decode([text])
        reference, calls = ReferenceDecoder(model, segments), []
        handle = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        reference.decode_one(text)
        handle.remove()
        assert decoder.counts.passes == len(calls) > 0

"""The batched decoder against the slow reference decoder: are their records and confidences the same?

A small random model whose choices are far apart (so that rounding cannot turn one into another) reads generated tickets for
three schemas with dependent enums, over the embedded base's tokenizer and over one of 151,936 tokens, which holds tokens made
of random bytes beside the embedded ones.

    python benchmarks/decoder_vs_reference.py [--tickets 5000] [--large-tickets 5000] [--schemas it_tickets …]
    python benchmarks/decoder_vs_reference.py --precisions --tickets 500     # the embedded base in every weight format

The second compares both decoders on the same weights in fp32, int8, bf16 and nf4. The reference reads the whole text again for
every choice, so activations are rounded at other places there wherever numbers are coarser than fp32.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write_record

SCHEMAS = ("it_tickets", "eclipse", str(Path(__file__).parent / "schemas" / "corners.yaml"))
LARGE_VOCABULARY = 151_936


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, default=5000)
    parser.add_argument("--large-tickets", type=int, default=5000, help="with the large vocabulary")
    parser.add_argument("--schemas", nargs="+", default=list(SCHEMAS))
    parser.add_argument("--precisions", action="store_true", help="the embedded base in every weight format instead")
    options = parser.parse_args()
    if options.precisions:
        found = {name: in_precision(name, tickets(options.tickets)) for name in ("fp32", "int8", "bf16", "nf4")}
        print(write_record("decoder_vs_reference_precisions", found))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        texts = tickets(max(options.tickets, options.large_tickets))
        for schema in options.schemas:
            for vocabulary, count in (("embedded", options.tickets), ("large", options.large_tickets)):
                figures[f"{Path(schema).stem}, {vocabulary} vocabulary"] = compare(
                    schema, vocabulary, texts[:count], Path(folder)
                )
    print(write_record("decoder_vs_reference", figures))


def tickets(count: int) -> list[str]:
    """Tickets of the generator, texts only."""
    from triagekit.data.generator import generate_tickets

    return [row["text"] for row in generate_tickets(count, seed=11)]


def compare(schema: str, vocabulary: str, texts: list[str], folder: Path) -> dict[str, Any]:
    """Both decoders on the same tickets."""
    from triagekit.modeling.base import load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptSettings, PromptTemplate
    from triagekit.schema import load_schema

    tokenizer = load_tokenizer("embedded")
    if vocabulary == "large":
        tokenizer = enlarged(tokenizer, folder)
    loaded = load_schema(schema)
    # Short prompts where the schema has them: the reference reads the whole text again for every choice.
    settings = PromptSettings(strategy="implicit" if loaded.instructions else "explicit", max_length=8192)
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, loaded, settings))
    return {"vocabulary": len(tokenizer), **both_decoders(sharp_model(len(tokenizer)), segments, texts)}


def in_precision(precision: str, texts: list[str]) -> dict[str, Any]:
    """The embedded base, which knows the form of a record but little else, on the same weights in both decoders."""
    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.int8_linear import to_int8
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.settings import QuantizationSettings
    from triagekit.modeling.template import PromptSettings, PromptTemplate
    from triagekit.schema import load_schema

    quantization = QuantizationSettings.model_validate({}) if precision == "nf4" else None
    model = load_base("embedded", precision if precision == "bf16" else "fp32", quantization, "cpu")
    if precision == "int8":
        to_int8(model)
    settings = PromptSettings(strategy="implicit", max_length=1024)
    tokenizer = load_tokenizer("embedded")
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, load_schema("it_tickets"), settings))
    return both_decoders(model, segments, texts)


def both_decoders(model: Any, segments: Any, texts: list[str]) -> dict[str, Any]:
    """What they make of the same tickets."""
    from triagekit.decoding.decoder import BatchedDecoder
    from triagekit.decoding.reference import ReferenceDecoder

    began = time.perf_counter()
    decoder = BatchedDecoder(model, segments, batch_size=128)
    found = decoder.decode(texts)
    ours = time.perf_counter() - began
    reference = ReferenceDecoder(model, segments)
    expected, closest = [], []
    for text in texts:
        expected.append(reference.decode_one(text))
        closest.append(reference.closest_choice)
    both = list(zip(found, expected, strict=True))
    result = {
        "tickets": len(texts),
        "equal_texts": sum(one.text == other.text for one, other in both),
        # Choices that hang on a rounding error are no fault of either decoder: how close they were, and how close any other was.
        "closest_choice_of_unequal": [
            gap for gap, (one, other) in zip(closest, both, strict=True) if one.text != other.text
        ],
        "closest_choice_of_equal": min(
            gap for gap, (one, other) in zip(closest, both, strict=True) if one.text == other.text
        ),
        "different_texts": len({one.text for one in found}),
        "largest_confidence_difference": max(
            abs(one.confidence[name] - other.confidence[name])
            for one, other in both
            if one.text == other.text
            for name in other.confidence
        ),
        "tokens_a_record": round(sum(item.tokens for item in found) / len(found), 1),
        "passes": decoder.counts.passes,
        "times_faster": round((time.perf_counter() - began - ours) / ours, 1),
    }
    print(segments.schema.name, json.dumps(result), flush=True)
    return result


def sharp_model(vocabulary: int) -> Any:
    """Random weights, two layers."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if "embed" in name else 0.15)
    return model.eval()


def enlarged(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer with tokens of random bytes added up to the size of a large model's vocabulary."""
    from transformers import PreTrainedTokenizerFast

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    entries = content["model"]["vocab"]
    alphabet = sorted(token for token in entries if len(token) == 1)
    source = random.Random(3)
    taken = set(entries) | {token["content"] for token in content["added_tokens"]}
    number = len(tokenizer)
    while number < LARGE_VOCABULARY:
        token = "".join(source.choices(alphabet, k=source.randint(2, 9)))
        if token not in taken:
            taken.add(token)
            entries[token] = number
            number += 1
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    large = PreTrainedTokenizerFast(
        tokenizer_file=str(path), eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token
    )
    large.chat_template = tokenizer.chat_template
    return large


if __name__ == "__main__":
    main()

"""The embedded base's tokenizer: byte-level BPE with ChatML, learnt from generated tickets, prompts and records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from triagekit.data.generator import generate_tickets
from triagekit.files.yaml_file import load_yaml
from triagekit.modeling.base_build.settings import TinyBaseSettings
from triagekit.modeling.base_build.taxonomies import make_taxonomy
from triagekit.schema import canonical_json
from triagekit.schema.prompt import schema_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
# The rule of Qwen2: words with one leading sign or blank, single digits, signs, line breaks. The library's own class
# for this architecture applies it whatever the file says, so the merges are learnt under it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(settings: TinyBaseSettings) -> PreTrainedTokenizerBase:
    """Learn the merges; any Unicode text can be encoded (byte level). The same settings give the same tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    raw = Tokenizer(models.BPE(byte_fallback=False))
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.tokenizer.vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(tokenizer_text(settings), trainer)
    tokenizer: PreTrainedTokenizerBase = Qwen2Tokenizer(
        tokenizer_object=raw,
        unk_token=None,  # type: ignore[arg-type]
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=settings.architecture.positions,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tokenizer_text(settings: TinyBaseSettings) -> Iterator[str]:
    """Tickets, prompts, records and everyday words, in a fixed order."""
    size, random = settings.tokenizer, Random(f"tokenizer/{settings.seed}")
    tickets: list[dict[str, str]] = []
    for ticket in generate_tickets(size.tickets, settings.seed, "train", spanish_share=settings.spanish_share):
        yield ticket["text"]
        if len(tickets) < 2000:
            tickets.append(ticket)
    for number in range(size.taxonomies):
        taxonomy = make_taxonomy(settings.seed, number)
        yield schema_prompt(taxonomy.schema)
        for ticket in random.sample(tickets, min(4, len(tickets))):
            yield canonical_json(taxonomy.schema, taxonomy.record(ticket))
    lists: dict[str, str] = load_yaml(Path(__file__).resolve().parent / "everyday_words.yaml").data
    for text in lists.values():
        # Repeated, so that whole words become tokens although generated tickets do not hold them.
        yield from [text] * 60

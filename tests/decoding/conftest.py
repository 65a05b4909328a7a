"""Tokenizers of both families."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from triagekit.schema.prompt import schema_prompt as schema_text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))

from scoring_helpers import SCHEMAS, TICKETS


@pytest.fixture(scope="session")
def byte_tokenizer(tiny_model_folder: Path) -> object:
    from triagekit.modeling.base import load_tokenizer

    return load_tokenizer(str(tiny_model_folder))


@pytest.fixture(scope="session")
def piece_tokenizer(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> object:
    """A SentencePiece-like BPE as Llama 2 has it: `▁` for spaces, byte fallback, a leading space for every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False)
    # A line break stays the byte token it is in Llama 2: no piece of text melts into it.
    raw.train_from_iterator(
        [*TICKETS, *(schema_text(schema).replace("\n", " ") for schema in SCHEMAS.values())], trainer
    )
    folder = tmp_path_factory.mktemp("pieces")
    raw.save(str(folder / "tokenizer.json"))
    # Byte tokens are ordinary tokens: training took them as special only so that they come first.
    import json

    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = byte_tokenizer.chat_template
    return tokenizer

"""Bytes of tokens, and the free-text automaton over them."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triagekit.decoding.text_automaton import FORBIDDEN, NORMAL, SPACE, START, compile_text_automaton
from triagekit.decoding.token_bytes import vocabulary_bytes
from triagekit.errors import TriageError
from triagekit.schema import normalise_text

TEXT = 'Mi portátil — ¿qué? 日本 🖨️ \t tab "quote" \\ back'
SINGLE_BYTES = compile_text_automaton([bytes([byte]) for byte in range(256)])


@pytest.mark.parametrize("name", ["byte_tokenizer", "piece_tokenizer"])
def test_the_bytes_of_tokens_join_to_the_text(request: pytest.FixtureRequest, name: str) -> None:
    tokenizer: Any = request.getfixturevalue(name)
    vocabulary = vocabulary_bytes(tokenizer, len(tokenizer))
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(vocabulary[token] or b"?" for token in ids).decode().removeprefix(" ") == TEXT
    assert all(vocabulary[token] is None for token in tokenizer.all_special_ids)
    assert {bytes([byte]) for byte in range(0x80, 0xC0)} <= set(vocabulary)


def test_metaspace_tokenizers_are_known() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁printer", -1.0), ("s", -1.5), ("▁", -2.0)], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    assert vocabulary_bytes(tokenizer, 6) == [None, b" printer", b"s", b" ", None, None]


def test_other_tokenizers_are_refused() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "print": 1, "##er": 2}, unk_token="[UNK]"))
    raw.decoder = decoders.WordPiece()
    with pytest.raises(TriageError, match="WordPiece"):
        vocabulary_bytes(PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]"), 3)


def accepts(text: bytes) -> tuple[bool, int]:
    """Whether the automaton writes exactly these bytes as one text, and what they cost."""
    state, cost = START, 0
    for byte in text:
        if SINGLE_BYTES.cost[state, byte] == FORBIDDEN:
            return False, cost
        cost += int(SINGLE_BYTES.cost[state, byte])
        state = int(SINGLE_BYTES.target[state, byte])
    return state in (NORMAL, SPACE), cost


@settings(max_examples=400, deadline=None)
@given(st.text(min_size=1, max_size=12))
@example("\uf900")
@example("cafe\u0301 ")
def test_exactly_canonical_text_is_written(text: str) -> None:
    canonical = normalise_text(text, 1000)
    escaped = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
    accepted, cost = accepts(escaped)
    if text == canonical:
        assert accepted and cost == len(text)
    else:
        # Letters are composed and one space at the end is taken off afterwards; nothing else that is not canonical can be
        # written.
        assert not accepted or unicodedata.normalize("NFC", text) in (canonical, f"{canonical} ")


@settings(max_examples=400, deadline=None)
@given(st.binary(min_size=1, max_size=8))
def test_nothing_but_well_formed_utf8_is_written(content: bytes) -> None:
    accepted, _ = accepts(content)
    if accepted:
        assert isinstance(json.loads(b'"' + content + b'"'), str)


def test_tokens_that_nothing_can_complete_are_forbidden() -> None:
    automaton = compile_text_automaton([b"a", "é".encode()[:1], b"\\", None])
    # A backslash completes itself; half an é does not.
    assert (automaton.cost[START] != FORBIDDEN).tolist() == [True, False, True, False]
    whole = compile_text_automaton([b"a", "é".encode()[:1], "é".encode()[1:], b"\\", b'"'])
    assert (whole.cost[NORMAL] != FORBIDDEN).tolist() == [True, True, False, True, False]


def test_a_vocabulary_without_text_is_refused() -> None:
    with pytest.raises(TriageError, match="begin a text"):
        compile_text_automaton([b'"', b" ", None])


def test_a_large_vocabulary_is_compiled_in_little_time_and_memory() -> None:
    source = np.random.default_rng(0)
    vocabulary = [
        source.integers(32, 127, size=source.integers(1, 12)).astype(np.uint8).tobytes() for _ in range(150_000)
    ]
    automaton = compile_text_automaton(vocabulary)
    assert automaton.cost.nbytes + automaton.target.nbytes < 40 << 20

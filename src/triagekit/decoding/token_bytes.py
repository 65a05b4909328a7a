"""The bytes that each token of a vocabulary stands for: what a grammar over text needs to know of a tokenizer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def vocabulary_bytes(tokenizer: PreTrainedTokenizerBase, size: int) -> list[bytes | None]:
    """Bytes of the token ids 0 … size-1; None for special and added tokens and for ids without a token.

    Knows byte-level BPE (GPT-2, Llama 3, Qwen) and the SentencePiece families (Metaspace, `▁` with byte fallback), told
    apart by the decoder that the tokenizer itself carries, not by its name. Raises TriageError for any other kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TriageError(
            f"{type(tokenizer).__name__} is not a fast tokenizer (no tokenizer.json), so free-text fields cannot be "
            "constrained with it. Convert it with AutoTokenizer.from_pretrained(…).save_pretrained(…)."
        )
    description = json.loads(backend.to_str())
    added = {int(token["id"]) for token in description.get("added_tokens") or ()}
    kinds = _decoder_parts(description.get("decoder"))
    byte_level = any(part["type"] == "ByteLevel" for part in kinds)
    space_mark = _space_mark(kinds)
    if not byte_level and space_mark is None:
        names = ", ".join(part["type"] for part in kinds) or "none"
        raise TriageError(
            f"The tokenizer's decoder ({names}) is neither byte-level nor SentencePiece-like; which bytes its tokens "
            "stand for is unknown, so free-text fields cannot be constrained with it."
        )
    result: list[bytes | None] = [None] * size
    alphabet = _byte_alphabet()
    for token, identity in backend.get_vocab(with_added_tokens=False).items():
        if identity >= size or identity in added:
            continue
        if byte_level:
            result[identity] = _from_byte_alphabet(token, alphabet)
        else:
            result[identity] = _from_sentence_piece(token, space_mark or "▁")
    for identity in tokenizer.all_special_ids:
        if identity < size:
            result[identity] = None
    return [content if content else None for content in result]


def _decoder_parts(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [part for inner in decoder["decoders"] for part in _decoder_parts(inner)]
    return [decoder]


def _space_mark(parts: list[dict[str, Any]]) -> str | None:
    """The character that stands for a space, as the Metaspace or Replace decoder says; None if there is none."""
    for part in parts:
        if part["type"] == "Metaspace":
            return str(part["replacement"])
        if part["type"] == "Replace" and part.get("content") == " ":
            return str(part["pattern"].get("String", "▁"))
    return None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte, inverted (Radford et al. 2019, `bytes_to_unicode` in encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + offset): byte for offset, byte in enumerate(others)})
    return alphabet


def _from_byte_alphabet(token: str, alphabet: dict[str, int]) -> bytes | None:
    if any(character not in alphabet for character in token):
        # Such a token was added by hand; the tokenizer never makes it from text.
        return None
    return bytes(alphabet[character] for character in token)


def _from_sentence_piece(token: str, space_mark: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte:
        return bytes([int(byte.group(1), 16)])
    return token.replace(space_mark, " ").encode("utf-8", errors="surrogatepass")

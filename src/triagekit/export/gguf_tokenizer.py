"""A tokenizer in GGUF's terms: byte-level BPE whose splitting rule llama.cpp knows by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BY_PATTERN = {rf"{_LETTERS}|\p{{N}}{_REST}": "qwen2", rf"{_LETTERS}|\p{{N}}{{1,3}}{_REST}": "llama-bpe"}
PRE_TOKENIZERS = {
    "qwen2": "Qwen2, Qwen2.5, Qwen3 and the embedded base",
    "llama-bpe": "Llama 3",
    "gpt-2": "GPT-2's own splitting",
    "smollm": "GPT-2's splitting with single digits (SmolLM)",
}
"""Names by which llama.cpp knows how text is split before the merges, and whose they are."""


@dataclass(frozen=True)
class GgufTokenizer:
    """What GGUF stores. `types` has gguf.TokenType's numbers; ids without a token are unused fillers."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos: int | None
    eos: int | None
    pad: int | None
    adds_bos: bool
    chat_template: str | None


def read_tokenizer(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> GgufTokenizer:
    """`tokenizer` as GGUF stores it, filled up to the `vocabulary` rows of the embedding.

    Raises TriageError for one that is no byte-level BPE, or that splits text in a way that llama.cpp has no name for.
    """
    from gguf import TokenType

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TriageError(f"GGUF needs a fast tokenizer (tokenizer.json); {type(tokenizer).__name__} has none.")
    # As loaded, not as on disk: the library may put its own splitting rule in the place of the file's.
    content = json.loads(backend.to_str())
    pre = pre_tokenizer_name(content)
    tokens: list[str | None] = [None] * vocabulary
    types = [int(TokenType.UNUSED)] * vocabulary
    for token, number in content["model"]["vocab"].items():
        tokens[number], types[number] = token, int(TokenType.NORMAL)
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    ids = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return GgufTokenizer(
        pre=pre,
        tokens=[f"[PAD{number}]" if token is None else token for number, token in enumerate(tokens)],
        types=types,
        merges=[_merge_text(merge) for merge in content["model"]["merges"]],
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        adds_bos=tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id],
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def pre_tokenizer_name(content: dict[str, Any]) -> str:
    """llama.cpp's name for the splitting rule of a tokenizer.json. Raises TriageError where it has none known here."""
    model, steps = content["model"], _steps(content.get("pre_tokenizer"))
    if model["type"] != "BPE" or not any(step["type"] == "ByteLevel" for step in steps):
        raise TriageError(
            f"GGUF export writes byte-level BPE tokenizers ({_known()}); this one is {model['type']} with "
            f"{', '.join(step['type'] for step in steps) or 'no'} pre-tokenizer."
        )
    name = _name(steps)
    if name is None or bool(model.get("ignore_merges")) != (name == "llama-bpe"):
        raise TriageError(
            "llama.cpp splits text by rules that it knows by name, and the rule of this tokenizer is none of them: "
            f"{json.dumps(steps, ensure_ascii=False)[:300]}. Known here: {_known()}."
        )
    return name


def _name(steps: list[dict[str, Any]]) -> str | None:
    level = next(step for step in steps if step["type"] == "ByteLevel")
    others = [step for step in steps if step is not level]
    if level.get("add_prefix_space"):
        return None
    if not others:
        return "gpt-2" if level.get("use_regex", True) else None
    if len(others) == 1 and others[0]["type"] == "Split" and not level.get("use_regex", True):
        return _BY_PATTERN.get(others[0]["pattern"].get("Regex", ""))
    if len(others) == 1 and others[0]["type"] == "Digits" and others[0].get("individual_digits"):
        return "smollm" if level.get("use_regex", True) else None
    return None


def _steps(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step["pretokenizers"]) if step["type"] == "Sequence" else [step]


def _merge_text(merge: str | list[str]) -> str:
    if isinstance(merge, str):
        return merge
    return " ".join(merge)


def _known() -> str:
    return "; ".join(f"{name}: {whose}" for name, whose in PRE_TOKENIZERS.items())

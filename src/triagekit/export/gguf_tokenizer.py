"""A tokenizer in GGUF's terms: byte-level BPE whose splitting rule llama.cpp knows by name, or SentencePiece's BPE.

llama.cpp joins SentencePiece's pieces by their scores, best first (Kudo & Richardson 2018, arXiv 1808.06226), where a
tokenizer.json lists the joins in order; the order gives the scores back.
"""

from __future__ import annotations

import json
import re
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
    "default": "SentencePiece with bytes for unknown characters (Llama 2, TinyLlama)",
}
"""Names by which llama.cpp knows how text is split before the merges, and whose they are."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class GgufTokenizer:
    """What GGUF stores. `types` has gguf.TokenType's numbers; ids without a token are unused fillers. `scores` and
    `space_prefix` (whether a text begins with a space) are SentencePiece's, `merges` the others'."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos: int | None
    eos: int | None
    pad: int | None
    adds_bos: bool
    chat_template: str | None
    scores: list[float] | None = None
    space_prefix: bool = False

    @property
    def model(self) -> str:
        """GGUF's name for the kind of tokenizer."""
        return "gpt2" if self.scores is None else "llama"


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
        tokens[number] = token
        is_byte = pre == "default" and _BYTE.fullmatch(token)
        types[number] = int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    unknown = content["model"].get("unk_token")
    if unknown is not None and pre == "default":
        types[content["model"]["vocab"][unknown]] = int(TokenType.UNKNOWN)
    ids = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    merges = [_pair(merge) for merge in content["model"]["merges"]]
    return GgufTokenizer(
        pre=pre,
        tokens=[f"[PAD{number}]" if token is None else token for number, token in enumerate(tokens)],
        types=types,
        merges=[] if pre == "default" else [" ".join(pair) for pair in merges],
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        adds_bos=tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id],
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        scores=_scores(content["model"]["vocab"], merges, vocabulary) if pre == "default" else None,
        space_prefix=pre == "default" and _prefixes_space(content),
    )


def pre_tokenizer_name(content: dict[str, Any]) -> str:
    """llama.cpp's name for the splitting rule of a tokenizer.json. Raises TriageError where it has none known here."""
    model, steps = content["model"], _steps(content.get("pre_tokenizer"))
    if model["type"] == "BPE" and model.get("byte_fallback") and _is_sentencepiece(content):
        return "default"
    if model["type"] != "BPE" or not any(step["type"] == "ByteLevel" for step in steps):
        raise TriageError(
            f"GGUF export writes BPE tokenizers of these kinds: {_known()}; this one is {model['type']} with "
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


def _steps(step: dict[str, Any] | None, inner: str = "pretokenizers") -> list[dict[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step["type"] == "Sequence" else [step]


def _is_sentencepiece(content: dict[str, Any]) -> bool:
    """Whether spaces become ▁ and nothing else is done to a text, as llama.cpp does it."""
    steps = _steps(content.get("pre_tokenizer"))
    changes = _steps(content.get("normalizer"), "normalizers")
    by_change = not steps and any(
        step == {"type": "Replace", "pattern": {"String": " "}, "content": "▁"} for step in changes
    )
    by_split = [step["type"] for step in steps] == ["Metaspace"] and not steps[0].get("split", True) and not changes
    return by_split or (
        by_change and all(step["type"] in {"Prepend", "Replace"} for step in changes) and len(changes) <= 2
    )


def _prefixes_space(content: dict[str, Any]) -> bool:
    steps = _steps(content.get("pre_tokenizer"))
    if steps:
        return bool(steps[0].get("prepend_scheme", "always") != "never")
    return any(step["type"] == "Prepend" for step in _steps(content.get("normalizer"), "normalizers"))


def _scores(vocabulary: dict[str, int], merges: list[tuple[str, str]], size: int) -> list[float]:
    """SentencePiece's scores: a piece that is joined earlier has a higher one.

    Raises TriageError where a piece could be joined in a way that the tokenizer does not list: llama.cpp would join it.
    """
    scores = [0.0] * size
    listed = set(merges)
    for rank, pair in enumerate(merges):
        number = vocabulary["".join(pair)]
        if scores[number] == 0.0:
            scores[number] = -float(rank + 1)
    for piece, number in vocabulary.items():
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        unlisted = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary and pair not in listed]
        if unlisted and scores[number]:
            raise TriageError(
                f"This tokenizer joins {piece!r} in some ways only, not of {' + '.join(unlisted[0])}; llama.cpp joins "
                "whatever is a piece. Convert the merged model with llama.cpp's own converter."
            )
    return scores


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _known() -> str:
    return "; ".join(f"{name}: {whose}" for name, whose in PRE_TOKENIZERS.items())

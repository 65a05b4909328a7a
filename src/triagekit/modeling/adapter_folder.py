"""The adapter folder: weights, and in triagekit.json everything they belong to, checked before they are used again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.files.atomic import atomic_folder, write_json, write_text
from triagekit.modeling.adapters import AdapterSettings, TrainableReport, loaded_dtype
from triagekit.modeling.base import base_fingerprint, load_base, load_tokenizer
from triagekit.modeling.precision import precision_name
from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.settings import QuantizationSettings
from triagekit.modeling.template import PromptTemplate
from triagekit.schema.load import load_schema
from triagekit.schema.schema import Schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LoadedAdapter", "load_adapter", "read_card", "save_adapter", "verify_adapter"]

CARD = "triagekit.json"
SCHEMA = "schema.yaml"
_LIBRARIES = ("triagekit", "torch", "transformers", "peft", "safetensors", "tokenizers", "bitsandbytes")
_CARD_KEYS = ("base", "base_fingerprint", "adapter", "schema_fingerprint", "prompt", "template_fingerprint", "parity")


@dataclass
class LoadedAdapter:
    """A model ready to score, with the tokens and the schema that it was trained with."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    segments: SegmentTokenizer
    schema: Schema
    card: dict[str, Any]


def save_adapter(
    model: Any,
    folder: Path,
    settings: AdapterSettings,
    tokenizer: SegmentTokenizer,
    base: str,
    report: TrainableReport,
    data_fingerprint: str,
    sample_texts: Sequence[str],
    allow_untrained: bool = False,
) -> dict[str, Any]:
    """Write the adapter folder, then reopen it on a fresh base and compare (verify_adapter); returns triagekit.json.

    The folder takes its place only after it was verified. The same weights give the same bytes in every file.
    `sample_texts`: tickets whose token ids (first 16) are kept as parity samples. `allow_untrained` accepts updates that
    are all zero. Raises TriageError when what was written is not what is in memory.
    """
    import yaml

    from triagekit.modeling.adapter_files import weights_fingerprint, write_weights
    from triagekit.modeling.forward import causal_model
    from triagekit.modeling.quantization import quantization_of

    if not sample_texts:
        raise TriageError(
            "save_adapter needs at least one sample ticket: token parity is checked with them at loading."
        )
    causal = causal_model(model)
    quantization = quantization_of(causal)
    with atomic_folder(Path(folder)) as temporary:
        write_weights(model, temporary, base)
        card = {
            "base": base,
            "base_fingerprint": base_fingerprint(base),
            "method": settings.method,
            "adapter": settings.model_dump(mode="json"),
            "precision": precision_name(loaded_dtype(model)),
            "quantization": quantization.model_dump(mode="json") if quantization else None,
            "schema": tokenizer.schema.name,
            "schema_fingerprint": tokenizer.schema.fingerprint,
            "prompt": tokenizer.template.to_dict(),
            "template_fingerprint": tokenizer.template.fingerprint,
            "parity": tokenizer.parity_samples(sample_texts),
            "output_token_ids": _output_token_ids(causal),
            "data_fingerprint": data_fingerprint,
            "versions": _versions(),
            "trainable": report.trainable,
            "total": report.total,
            "share": report.share,
            "matched": report.matched,
            "fingerprint": weights_fingerprint(temporary),
        }
        write_json(temporary / CARD, card)
        schema_text = yaml.safe_dump(tokenizer.schema.to_dict(), sort_keys=False, allow_unicode=True, width=120)
        write_text(temporary / SCHEMA, schema_text)
        verify_adapter(temporary, model, allow_untrained)
    return card


def verify_adapter(folder: Path, model_in_memory: Any, allow_untrained: bool = False) -> None:
    """Reopen the folder on a fresh base and compare with the model in memory: see verify.compare_with_memory."""
    from triagekit.modeling.verify import compare_with_memory

    compare_with_memory(Path(folder), read_card(folder), model_in_memory, allow_untrained)


def load_adapter(
    folder: Path,
    base: str | None = None,
    precision: str = "auto",
    device: str | None = None,
    merge: bool = False,
    schema: Schema | None = None,
    quantization: QuantizationSettings | None = None,
) -> LoadedAdapter:
    """Open an adapter folder for scoring: its base with the adapter, in evaluation mode. A folder that an export has
    merged is a base of its own, with nothing left to attach.

    `base` None: the one it was trained on. `schema`: the one that the caller is going to score with, if any. The base is
    quantised as in training, or by `quantization`, but with `merge` it is loaded plain and the adapter folded into it.
    Raises ProblemsError naming every fingerprint that differs (base, schema, template, weights) with both values, and
    TriageError when the tokenizer gives other ids for the stored samples.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.get("merged"):
        if base is not None:
            raise TriageError(
                f"{folder} holds the whole model, so it takes no other base than itself. Leave --base out."
            )
        base = str(folder)
    base = base or str(card["base"])
    tokenizer = load_tokenizer(base)
    own_schema = load_schema(folder / SCHEMA)
    _check_fingerprints(folder, card, base, tokenizer, own_schema, schema)
    segments = SegmentTokenizer(tokenizer, PromptTemplate.from_dict(tokenizer, card["prompt"]))
    _check_parity(folder, card, segments)
    if card.get("merged"):
        model = load_base(base, precision, quantization, device).requires_grad_(False)
        return LoadedAdapter(model, tokenizer, segments, segments.schema, card)
    if quantization is not None and card["adapter"]["method"] == "full":
        raise TriageError(
            f"{folder} holds every weight, so it has no base that could be quantised. Merge it (triage export merge RUN "
            "--out merged), and open the merged folder instead."
        )
    if quantization is None and card.get("quantization") and not merge:
        quantization = QuantizationSettings(**card["quantization"])
    model = open_on_fresh_base(folder, card, base, precision, quantization, device)
    if card["adapter"]["method"] == "full":
        # Training keeps float32 masters of everything; scoring wants the type that was asked for.
        model = model.to(loaded_dtype(model))
    if merge:
        from triagekit.modeling.merge import merge_adapter

        model = merge_adapter(model)
    return LoadedAdapter(model, tokenizer, segments, segments.schema, card)


def open_on_fresh_base(
    folder: Path,
    card: dict[str, Any],
    base: str,
    precision: str,
    quantization: QuantizationSettings | None,
    device: str | None,
) -> Any:
    """The base, newly loaded, with the folder's weights attached; nothing is checked but that every tensor fits."""
    from triagekit.modeling.adapter_files import PISSA_INITIAL, read_tensors, read_weights
    from triagekit.modeling.adapters import attach_adapter

    settings = AdapterSettings.model_validate(card["adapter"])
    model = load_base(base, precision, quantization, device)
    initial = read_tensors(folder / PISSA_INITIAL) if settings.pissa else None
    model, _ = attach_adapter(model, settings, card.get("output_token_ids"), initial)
    read_weights(model, folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def read_card(folder: Path) -> dict[str, Any]:
    """triagekit.json of an adapter folder, without torch. Raises TriageError for a folder that is no adapter folder."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise TriageError(f"{folder} is not an adapter folder: it has no {CARD}. Give runs/<name>/adapter.")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TriageError(f"{path} is damaged: {error}") from None
    missing = [key for key in _CARD_KEYS if key not in card]
    if missing:
        raise TriageError(f"{path} lacks {', '.join(missing)}: it was written by another program or cut short.")
    return dict(card)


def _check_fingerprints(
    folder: Path,
    card: dict[str, Any],
    base: str,
    tokenizer: PreTrainedTokenizerBase,
    own_schema: Schema,
    asked_schema: Schema | None,
) -> None:
    from triagekit.modeling.adapter_files import weights_fingerprint

    changed = "The file was changed after training."
    checks = [
        ("base", "base_fingerprint", base_fingerprint(base), f"'{base}'", "Give the base it was trained on."),
        ("schema", "schema_fingerprint", own_schema.fingerprint, SCHEMA, changed),
        ("weights", "fingerprint", weights_fingerprint(folder), "the weights files", "Copy the folder again."),
    ]
    problems = []
    try:
        stored = PromptTemplate.from_dict(tokenizer, card["prompt"])
        rendered = PromptTemplate(tokenizer, stored.schema, stored.settings)
        checks += [
            ("template", "template_fingerprint", stored.fingerprint, CARD, changed),
            (
                "template",
                "template_fingerprint",
                rendered.fingerprint,
                f"the chat template of '{base}'",
                "The base's chat template is another one, or this triagekit renders it in another way.",
            ),
        ]
    except TriageError as error:
        problems.append(Problem("template", str(error)))
    if asked_schema is not None:
        hint = "Train an adapter for this schema, or score with the adapter's own."
        checks.append(("schema", "schema_fingerprint", asked_schema.fingerprint, f"schema '{asked_schema.name}'", hint))
    problems += [
        Problem(what, f"the adapter was made with {card.get(key)}, {source} has {value}.", hint)
        for what, key, value, source, hint in checks
        if value != card.get(key)
    ]
    if problems:
        names = ", ".join(dict.fromkeys(problem.where for problem in problems))
        raise ProblemsError(f"{folder} does not go with what it is asked to work with ({names}):", problems)


def _check_parity(folder: Path, card: dict[str, Any], segments: SegmentTokenizer) -> None:
    for number, sample in enumerate(card["parity"]):
        ids = segments.prompt_ids(sample["text"], sample.get("variant", 0))
        if ids != sample["ids"]:
            place = next(
                (n for n, (a, b) in enumerate(zip(ids, sample["ids"], strict=False)) if a != b),
                min(len(ids), len(sample["ids"])),
            )
            raise TriageError(
                f"{folder}: stored sample {number} gives other token ids than in training, first at position {place} "
                f"({ids[place : place + 3]} instead of {sample['ids'][place : place + 3]}). "
                f"The tokenizer library behaves differently; trained with {card.get('versions')}."
            )


def _output_token_ids(causal: Any) -> list[int] | None:
    head = causal.get_output_embeddings()
    return head.token_ids.tolist() if hasattr(head, "token_ids") else None


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

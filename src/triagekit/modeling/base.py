"""Base models and tokenizers: the embedded one, a folder, or a hub id; loaded without code from others, safetensors only."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.files.fingerprint import fingerprint_json, sha256_file
from triagekit.modeling.precision import default_device, resolve_precision
from triagekit.modeling.quantization import bitsandbytes_config, keep_layout
from triagekit.modeling.settings import QuantizationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "EMBEDDED",
    "QuantizationSettings",
    "base_fingerprint",
    "base_folder",
    "is_own_base",
    "load_base",
    "load_tokenizer",
    "resolve_base",
]

EMBEDDED = "embedded"
"""Name of the base that ships with the package."""

_EMBEDDED_FOLDER = Path(__file__).resolve().parent / "tiny_base"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CONTENT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_RECIPE = "recipe.json"
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


def resolve_base(base: str) -> str:
    """The embedded base's folder for 'embedded'; a folder or hub id unchanged.

    Raises TriageError for a folder that is missing or holds no model, saying what to do.
    """
    if base == EMBEDDED:
        if not (_EMBEDDED_FOLDER / "config.json").is_file():
            raise TriageError(
                f"The embedded base is missing from this installation ({_EMBEDDED_FOLDER}). "
                "Install triagekit again, or name another base: a folder or a hub id."
            )
        return str(_EMBEDDED_FOLDER)
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise TriageError(f"base {base}: the folder holds no config.json, so it is not a saved model.")
        return str(folder)
    if not _HUB_ID.fullmatch(base) or base.startswith((".", "~")):
        raise TriageError(
            f"base {base}: there is no such folder. Give '{EMBEDDED}', a folder, or a hub id (owner/name)."
        )
    return base


def base_folder(base: str) -> Path:
    """The local folder that holds the base; for a hub id its snapshot in the local cache.

    Raises TriageError when the hub id is not in the cache and cannot be fetched now.
    """
    resolved = resolve_base(base)
    if Path(resolved).is_dir():
        return Path(resolved)
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(resolved, "config.json")
    except (OSError, ValueError) as error:
        raise _not_here(base, error) from None
    return Path(str(config)).parent


def is_own_base(base: str) -> bool:
    """Whether the base is the embedded one, or was made as it was by `triage base build`: a few million weights that know
    records of made-up schemas and nothing else, and are sure and wrong about any other."""
    recipe = base_folder(base) / _RECIPE
    return recipe.is_file() and "triagekit" in json.loads(recipe.read_text(encoding="utf-8"))


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with a pad token but no token added.

    The pad token may equal the end token: masks are built from lengths, never from the pad id.
    Raises TriageError when the base is not here.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(base), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_here(base, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    if tokenizer.pad_token is None:
        raise TriageError(f"base {base}: its tokenizer names no pad, end, unknown or begin token to pad with.")
    return tokenizer


def load_base(
    base: str,
    precision: str = "auto",
    quantization: QuantizationSettings | None = None,
    device: str | None = None,
) -> PreTrainedModel:
    """The causal language model in evaluation mode on `device` (None: cuda if there is one, else cpu).

    The number type is that of `precision` (see resolve_precision) whatever the type on disk. Raises TriageError when
    the base is not here, has no safetensors weights or not all of them, or is of a kind whose logits
    `forward.project_to_logits` cannot reproduce.
    """
    from transformers import AutoModelForCausalLM

    from triagekit.modeling.forward import check_projection

    device = device or default_device()
    dtype = resolve_precision(precision, device)
    resolved = resolve_base(base)
    options: dict[str, Any] = {}
    if quantization is not None:
        options = {
            "quantization_config": bitsandbytes_config(quantization, dtype, device),
            "device_map": {"": device},
        }
    try:
        with quiet_shards():
            # The attention implementation is left to the library: it takes sdpa wherever the architecture allows it.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                resolved,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError) as error:
        raise _not_here(base, error) from None
    model, found = loaded
    _check_nothing_is_random(base, model, found["missing_keys"])
    if quantization is None:
        model.to(device)
    keep_layout(model)
    model.eval()
    check_projection(model)
    whole: PreTrainedModel = model
    return whole


def base_fingerprint(base: str) -> str:
    """Content of the base: its configuration, tokenizer and weights files. The same bytes anywhere give the same value.

    Raises TriageError when the base or its weights are not here.
    """
    folder = base_folder(base)
    files = [*_CONTENT_FILES, *_weight_files(base, folder)]
    return fingerprint_json([(name, _sha256(folder / name)) for name in files if (folder / name).is_file()])


def _check_nothing_is_random(base: str, model: Any, missing: Collection[str]) -> None:
    """The library draws weights that it does not find at random, and goes on."""
    if missing:
        raise TriageError(
            f"base {base}: {len(missing)} of the {sum(1 for _ in model.parameters())} tensors of a "
            f"{type(model).__name__} are not in its files, first {min(missing)}; they would be random. The files are not "
            "whole, or config.json is another model's: fetch or save the base again."
        )


@contextmanager
def quiet_shards() -> Iterator[None]:
    """No loading bar of the library's own: progress is shown by the caller, if at all."""
    from transformers.utils import logging as library_logging

    logging: Any = library_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _weight_files(base: str, folder: Path) -> list[str]:
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if (folder / _WEIGHTS_INDEX).is_file():
        index = json.loads((folder / _WEIGHTS_INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise TriageError(
                f"base {base}: {len(missing)} of {len(names)} weight files are missing from {folder}, "
                f"first {missing[0]}. Fetch them again: hf download {base}"
            )
        return [_WEIGHTS_INDEX, *names]
    raise TriageError(f"base {base}: no {_WEIGHTS} in {folder}. Only safetensors weights are loaded.")


def _sha256(path: Path) -> str:
    real = path.resolve()
    # The hub's cache names a large file by its SHA-256, so a 15 GB base need not be read to be recognised.
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    status = real.stat()
    return _sha256_of(str(real), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of(path: str, size: int, modified: int) -> str:
    return sha256_file(Path(path))


def _not_here(base: str, error: Exception) -> TriageError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if Path(resolve_base(base)).is_dir():
        return TriageError(f"base {base} cannot be loaded: {first}")
    offline = any(
        os.environ.get(name, "").upper() in {"1", "TRUE", "YES", "ON"}
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )
    state = "this process is offline" if offline else "the hub could not give it"
    return TriageError(
        f"base {base} is not in the local hub cache and {state}. On a node with network run: hf download {base}   "
        f"(HF_HOME must name a folder that both nodes see), or give a folder, or '{EMBEDDED}'. ({first})"
    )

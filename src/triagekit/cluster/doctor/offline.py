"""Offline readiness: is the base model here and whole, and do the libraries know that there is no network?"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.doctor.folders import hub_home
from triagekit.errors import TriageError
from triagekit.modeling.base import EMBEDDED, resolve_base

SECTION = "Offline"
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TRUE = {"1", "TRUE", "YES", "ON"}


def check_offline(base: str, cache: str | None = None, site_is_offline: bool = False) -> list[Finding]:
    """The base by name, folder or hub id; and the variables. `cache`: HF_HOME of the site, if it names one."""
    hub_cache = find_hub_cache(os.environ if cache is None else {**os.environ, "HF_HOME": cache})
    return [check_base(base, hub_cache), check_variables(base, os.environ, site_is_offline)]


def find_hub_cache(variables: Mapping[str, str]) -> Path:
    """Where the hub library keeps models: HF_HUB_CACHE, else `hub` below HF_HOME."""
    named = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE")
    return Path(named).expanduser() if named else hub_home(variables) / "hub"


def check_base(base: str, hub_cache: Path) -> Finding:
    """Whether the base can be loaded without network: its configuration, tokenizer and every weight file, whole."""
    name = f"base {base}"
    try:
        resolved = resolve_base(base)
    except TriageError as error:
        return Finding(SECTION, name, "problem", str(error), "Give 'embedded', a folder, or a hub id (owner/name).")
    folder: Path | None = Path(resolved)
    fetch = f"On a node with network: HF_HOME={hub_cache.parent} hf download {base}"
    if base == EMBEDDED:
        fetch = "Install triagekit again."
    elif not Path(resolved).is_dir():
        folder = find_snapshot(base, hub_cache)
        if folder is None:
            return Finding(SECTION, name, "problem", f"not in the cache {hub_cache}", fetch)
    else:
        fetch = "Copy the folder here again, whole."
    assert folder is not None
    missing = missing_parts(folder)
    if missing:
        count = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        return Finding(SECTION, name, "problem", f"not whole in {folder}: {'; '.join(missing[:3])}{count}", fetch)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    where = "ships with triagekit" if base == EMBEDDED else f"whole in {folder}"
    return Finding(SECTION, name, "ok", f"{where}, weights of {_size(size)}")


def find_snapshot(base: str, hub_cache: Path) -> Path | None:
    """The cached snapshot that `main` names, else the only or newest one; None when nothing of the base is cached."""
    folder = hub_cache / f"models--{base.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if reference.is_file():
        named = folder / "snapshots" / reference.read_text(encoding="ascii", errors="replace").strip()
        if named.is_dir():
            return named
    snapshots = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def missing_parts(folder: Path) -> list[str]:
    """What keeps a model folder from being loaded, in words; weights are checked by their headers, not read."""
    missing = [] if (folder / "config.json").is_file() else ["no config.json"]
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        missing.append("no tokenizer.json (or tokenizer.model)")
    weights = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            weights = sorted(set(index["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return [*missing, f"{_INDEX} cannot be read"]
    for name in weights:
        problem = _weights_problem(folder / name)
        if problem:
            missing.append(f"{name} {problem}")
    return missing


def check_variables(base: str, variables: Mapping[str, str], site_is_offline: bool) -> Finding:
    """Whether the libraries would try the network, which on a compute node without one means long waits."""
    unset = [name for name in VARIABLES if variables.get(name, "").upper() not in _TRUE]
    if not unset:
        return Finding(SECTION, "variables", "ok", "set: the libraries stay off the network")
    if site_is_offline:
        return Finding(SECTION, "variables", "ok", "the site profile sets them in jobs (offline: true)")
    if base == EMBEDDED:
        return Finding(SECTION, "variables", "ok", "not set; the embedded base needs no network")
    fix = f"export {' '.join(f'{name}=1' for name in unset)}, or --offline, or `offline: true` in the site profile"
    detail = f"{', '.join(unset)} not set: the libraries ask the hub at every start"
    return Finding(SECTION, "variables", "note", detail, fix)


def _weights_problem(path: Path) -> str:
    """A safetensors file tells its own length: 8 bytes, a JSON header of that size, the data it names."""
    if path.is_symlink() and not path.exists():
        return "points to nothing (an interrupted download)"
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    try:
        with path.open("rb") as handle:
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= size - 8:
                return f"is no safetensors file ({size} bytes; perhaps a pointer of Git LFS)"
            header = json.loads(handle.read(length))
        end = max((item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"), default=0)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "has no valid header"
    expected = 8 + length + end
    return "" if size == expected else f"has {size} of {expected} bytes"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"

"""The engines, how each is started in a process of its own, and the small sweep that finds its best settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrix_rate import THREADS

PEERS = Path(__file__).resolve().parent
ENVIRONMENTS = PEERS.parent.parent / ".peers"
PATIENCE = 3600
"""Seconds after which an engine is given up."""

Settings = dict[str, Any]


class EngineFailed(RuntimeError):
    """An engine that did not answer; the message is the end of what it said."""


@dataclass(frozen=True)
class Engine:
    """How an engine is started. `environment`: name in `.peers`, None for the project's own."""

    script: str
    environment: str | None
    sweep: tuple[Settings, ...]

    @property
    def python(self) -> Path:
        """The interpreter that it runs in."""
        return ENVIRONMENTS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    @property
    def missing(self) -> str | None:
        """The command that makes its environment, where that is not there or of other versions."""
        if self.environment is None:
            return None
        installed = ENVIRONMENTS / self.environment / "installed.txt"
        if installed.is_file() and installed.read_text().split() == self.versions:
            return None
        return f"benchmarks/peers/install.sh {self.environment}"

    @property
    def versions(self) -> list[str]:
        """What its environment is pinned to, where it is not the project's."""
        return (PEERS / f"requirements-{self.environment}.txt").read_text().split() if self.environment else []


def _sweep(*batches: int, **others: Any) -> tuple[Settings, ...]:
    """Batch sizes under the schema as a grammar, and the first of them under the schema as JSON schema."""
    sizes = tuple({"batch": size, "schema": "grammar", **others} for size in batches)
    return (*sizes, {**sizes[0], "schema": "any_of"})


def _openvino(weights: str) -> tuple[Settings, ...]:
    """`step_tokens`: how many tokens it computes in a step; 256 is its own choice."""
    first, *rest = _sweep(64, 16, 128, weights=weights, step_tokens=1024)
    return (first, *rest, {**first, "step_tokens": 256})


ENGINES = {
    "ours": Engine("ours.py", None, tuple({"batch": size} for size in (64, 128, 256))),
    "ours_int8": Engine("ours.py", None, tuple({"batch": size, "precision": "int8"} for size in (64, 128, 256))),
    "ours_compact": Engine("ours.py", None, tuple({"batch": size, "run": "compact"} for size in (64, 128, 256))),
    "ours_compact_int8": Engine(
        "ours.py", None, tuple({"batch": size, "run": "compact", "precision": "int8"} for size in (128, 256))
    ),
    "ours_labels_int8": Engine(
        "ours.py", None, tuple({"batch": size, "fields": ["labels"], "precision": "int8"} for size in (128, 256))
    ),
    "ours_labels": Engine("ours.py", None, tuple({"batch": size, "fields": ["labels"]} for size in (64, 128, 256))),
    "ours_compact_labels_int8": Engine(
        "ours.py",
        None,
        tuple(
            {"batch": size, "run": "compact_labels", "fields": ["labels"], "precision": "int8"} for size in (128, 256)
        ),
    ),
    "openvino": Engine("openvino_engine.py", "openvino", _openvino("fp32")),
    "openvino_int8": Engine("openvino_engine.py", "openvino", _openvino("int8")),
    "vllm": Engine("vllm_engine.py", "vllm", _sweep(64, 16, 128)),
    "transformers_xgrammar_prefix": Engine("transformers_xgrammar_prefix.py", "xgrammar", _sweep(32, 8, 64)),
    "transformers_xgrammar": Engine("transformers_xgrammar.py", "xgrammar", _sweep(32, 8)),
    "transformers_generate": Engine("transformers_generate.py", None, tuple({"batch": size} for size in (32, 8))),
    "transformers_continuous": Engine("transformers_continuous.py", None, ({"batch": 64},)),
}


def further_runs(engines: Sequence[str]) -> list[str]:
    """Runs that they score with, the common one left out."""
    return list(dict.fromkeys(str(tried["run"]) for name in engines for tried in ENGINES[name].sweep if "run" in tried))


def best_settings(name: str, task: Path, again: bool) -> list[dict[str, Any]]:
    """Every setting of the engine's sweep with its seconds, the fastest first; kept beside the task for the next call.

    Raises EngineFailed where it answers under none of them.
    """
    kept = task.with_name(f"{task.stem}.{name}.sweep.json")
    if kept.is_file() and not again:
        return list(json.loads(kept.read_text(encoding="utf-8")))
    tried, failures = [], []
    for settings in ENGINES[name].sweep:
        try:
            found = run_engine(name, task, settings)
        except EngineFailed as failure:
            failures.append(str(failure))
            tried.append({"settings": settings, "failed": str(failure).splitlines()[-1][:300]})
            continue
        tried.append({"settings": settings, "seconds": round(found["seconds"], 3)})
        print(f"  {name} {settings}: {len(found['texts']) / found['seconds']:.1f} tickets/s", flush=True)
    if len(failures) == len(tried):
        raise EngineFailed(failures[0])
    tried.sort(key=lambda each: each.get("seconds", float("inf")))
    kept.write_text(json.dumps(tried, indent=2), encoding="utf-8")
    return tried


def run_engine(name: str, task: Path, settings: Settings) -> dict[str, Any]:
    """The answer of a fresh process: see request.answer. Raises EngineFailed."""
    engine = ENGINES[name]
    if engine.environment == "openvino":
        _export_openvino(engine, task, settings["weights"])
    found: dict[str, Any] = _last_line([engine.python, PEERS / engine.script, task, json.dumps(settings)], engine)
    return found


def ceiling(device: str) -> dict[str, float]:
    """Matrix-product rates of this moment, operations a second, by number type."""
    rates: dict[str, float] = _last_line([sys.executable, PEERS.parent / "matrix_rate.py", device], ENGINES["ours"])
    return rates


def process_environment(engine: Engine) -> dict[str, str]:
    """Of a process of `engine`: two threads, no network, and nothing of this checkout in other environments."""
    given = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}
    given |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if engine.environment is not None:
        given.pop("PYTHONPATH", None)
    return given


def _export_openvino(engine: Engine, task: Path, weights: str) -> None:
    """OpenVINO reads a form of its own, written once beside the plain model."""
    model = json.loads(task.read_text(encoding="utf-8"))["model"]
    out = Path(f"{model}-openvino-{weights}")
    if not (out / "openvino_detokenizer.xml").is_file():
        _run([engine.python, PEERS / "openvino_export.py", model, out, weights], engine)


def _last_line(words: list[object], engine: Engine) -> Any:
    return json.loads(_run(words, engine).strip().splitlines()[-1])


def _run(words: list[object], engine: Engine) -> str:
    try:
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            env=process_environment(engine),
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"gave no answer within {PATIENCE} s") from None
    if done.returncode:
        raise EngineFailed(done.stderr.strip()[-3000:] or f"ended with {done.returncode} without a word")
    return done.stdout

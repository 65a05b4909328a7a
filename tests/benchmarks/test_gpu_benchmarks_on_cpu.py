"""The comparisons that are meant for GPUs, on a CPU and a tiny model: every step of the way but the device."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *words: object, status: int = 0) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{BENCHMARKS.parent / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *map(str, words), "--record", "none"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout


def cells(output: str, engine: str) -> str:
    """What stands behind an engine's name in the last table that has it."""
    return [line for line in output.splitlines() if line.split()[:1] == [engine]][-1]


@pytest.mark.long
def test_training_in_lora_and_nf4_beside_trl() -> None:
    words = ("--models", "tiny", "--methods", "lora", "qlora", "--prompts", "explicit", "--rows", 4, "--steps", 3)
    output = run("training_vs_trl.py", *words, "--turns", 1, "--engines", "ours", "trl")
    assert "tiny, explicit, 4 rows" in output and "tiny, qlora, explicit, 4 rows" in output
    difference = float(re.search(r"losses differ by (\S+)", cells(output, "trl"))[1])
    assert difference < 2e-3, "4-bit products of other shapes; the losses are near 9"
    assert re.fullmatch(r"ratio \d+\.\d\d", output.splitlines()[-1])


@pytest.mark.long
def test_the_others_take_a_step_in_parts_where_it_does_not_fit() -> None:
    words = ("--models", "tiny", "--prompts", "explicit", "--rows", 4, "--peers-micro", 2, "--steps", 3, "--turns", 1)
    output = run("training_vs_trl.py", *words, "--engines", "ours", "trl", "hf")
    for engine in ("trl", "hf"):
        assert float(re.search(r"losses differ by (\S+)", cells(output, engine))[1]) < 1e-4


@pytest.mark.long
def test_scoring_beside_continuous_batching(tmp_path: Path) -> None:
    engines = ("ours", "ours_int8", "transformers_generate", "transformers_continuous")
    output = run("scoring_vs_peers.py", "--models", "tiny", "--rounds", 1, "--work", tmp_path, "--engines", *engines)
    assert "100.0%" in cells(output, "ours")
    for engine in engines:
        assert re.search(r"\d+\.\d\d ×", cells(output, engine)), engine
    assert re.fullmatch(r"ratio \d+\.\d\d", output.splitlines()[-1])


def cases(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.long
def test_peak_memory_of_every_method_and_under_a_hard_limit() -> None:
    lora, hybrid, qlora, capped = cases(run("gpu_memory.py", "--small"))
    assert [case["method"] for case in (lora, hybrid, qlora)] == ["lora", "hybrid", "lora"] and qlora["bits"] == 4
    for case in (lora, hybrid, qlora, capped):
        # Half a gigabyte of each is Python with its libraries, which the estimate takes for 0.7.
        assert 0.8 < case["estimate_over_measured"] < 1.5, case
    head = 32_000 * 512
    # The hybrid's head, its gradient and the optimizer's two figures, all float32.
    assert hybrid["measured_bytes"] - lora["measured_bytes"] > 12 * head
    assert capped["bits"] == 4 and capped["length"] == 512 and capped["optimizer"] == "paged_adamw_8bit"
    assert capped["measured_bytes"] < capped["cap_bytes"] == 10**9


@pytest.mark.long
def test_a_limit_that_is_too_low_is_kept() -> None:
    (case,) = cases(run("gpu_memory.py", "--small", "--only", "cap", "--cap", 0.55, status=1))
    assert "memory" in case["error"] and case["cap_bytes"] == 550_000_000 and "measured_bytes" not in case


@pytest.mark.parametrize("script", ["training_vs_trl.py", "scoring_vs_peers.py"])
def test_without_a_gpu_nothing_is_measured(script: str) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--gpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 1
    assert "no GPU that CUDA can use, so nothing was measured" in done.stderr


def test_without_a_gpu_no_peak_is_measured() -> None:
    words = [sys.executable, BENCHMARKS / "gpu_memory.py"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "no GPU that CUDA can use, so nothing was measured" in done.stderr

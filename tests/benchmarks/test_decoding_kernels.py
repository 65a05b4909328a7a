"""The comparison of kernels computes the decoder's own pass in every way, and the documentation shows what was recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BENCHMARKS = CHECKOUT / "benchmarks"
EXACT, ROUNDED = 1e-5, 0.1
"""Relative differences of states: of another order of sums, and of 8-bit products."""


def run(*words: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "decoding_kernels.py", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def states_of(base: str, file: Path) -> str:
    """A script that saves a small batch of `base`, computes it by the layers in both forms, and prints the differences."""
    return f"""
import json, sys
from pathlib import Path
import torch
from decoding_loops import CASES, left_to_torch
from kernel_cases.batch import Rows, Size
from peers.decoder_layers import FORMS, DecoderLayers, pass_inputs
from safetensors.torch import load_file
from triagekit.decoding.prefixed_attention import prefixed_attention_of
from triagekit.modeling.base import base_folder, load_base

folder, file = base_folder({base!r}), Path({str(file)!r})
size = Size(rows=5, prefix=7, ticket=9)
model = load_base(str(folder), "fp32", device="cpu")
with torch.inference_mode(), left_to_torch(CASES["none"]), prefixed_attention_of(model):
    Rows(model, size).save(file)
tensors = load_file(file)
found = {{}}
for form in FORMS:
    layers = DecoderLayers(folder, form, size.prefix + 2 * size.ticket)
    for width in size.passes():
        states, expected = layers(*pass_inputs(tensors, form, width))[0], tensors[f"states_{{width}}"]
        found[f"{{form}} {{width}}"] = float((states - expected).abs().max() / expected.abs().max())
print(json.dumps(found))
"""


def test_the_layers_that_compilers_get_compute_the_decoders_pass(tmp_path: Path) -> None:
    path = os.pathsep.join(map(str, (CHECKOUT / "src", BENCHMARKS)))
    done = subprocess.run(
        [sys.executable, "-c", states_of("embedded", tmp_path / "batch.safetensors")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == 6
    assert max(differences.values()) < EXACT, differences


@pytest.mark.long
def test_every_way_gives_the_states_of_plain_torch() -> None:
    """But for compilers, which take minutes; what they gave stands in the record as `difference`."""
    output = run("--models", "tiny", "--rounds", 1, "--without", "openvino", "compiled", "--record", "none")
    cases = re.findall(r"^  (\S.*?) {2,}(\{.*\})$", output, re.MULTILINE)
    assert len(cases) == 3 * 6, output
    for name, figures in cases:
        difference = json.loads(figures)["difference"]
        assert difference < (ROUNDED if "int8" in name else EXACT), name
    for product in ("ours", "qlinear_pointwise by token", "linear_dynamic, onednn"):
        assert re.search(rf"^\| {product} \| \d+\.\d\d ", output, re.MULTILINE), product


def test_what_is_recorded_computed_the_same() -> None:
    record = json.loads((BENCHMARKS / "results" / "decoding_kernels.json").read_text(encoding="utf-8"))
    for model, found in record["figures"]["models"].items():
        for width, cases in found["passes"].items():
            for name, figures in cases.items():
                assert figures["difference"] < (ROUNDED if "int8" in name else EXACT), (model, width, name)


def test_the_documentation_shows_the_record() -> None:
    assert run("--table").strip() in (CHECKOUT / "docs" / "scoring.md").read_text(encoding="utf-8")

"""What other kernels would give the decoder on a CPU: torch.compile, OpenVINO, and torch's own products in 8-bit integers.

    python benchmarks/decoding_kernels.py [--models embedded qwen2_45m] [--rounds 9] [--without compiled openvino products]
    python benchmarks/decoding_kernels.py --table            # the tables of docs/scoring.md, from the record

One pass of 64 rows behind a common prefix of 248 tokens is computed in every way, one after the other, round after round, on two
threads: a pass that reads tickets of 100 tokens, and passes of 1 and 4 tokens a row behind them. A figure is the median of the
rounds' ratios to ours, by the clock and by CPU seconds; below 1 is faster than ours. What else the machine does falls on the CPU
seconds of all alike, so these stand in the tables; on a machine with nothing else to do, the clock also tells how well two
threads are used. The states that come out are compared with those of plain torch. `compile_seconds` is the time of the first
call, from empty caches.

- ours: two batches at once, a thread each, as the decoder does (`decoding/lanes.py`); one pass: a batch on both threads.
- plain torch: the same pass without compiled loops and packed weights.
- torch.compile, static and dynamic: the plain pass through dynamo and inductor, as it stands.
- layers: all layers as one function of tensors, on rows of one length, so without the packing, the writing to places and the
  masks that real batches need (`peers/decoder_layers.py`). Compiled, its weights are frozen, so that inductor can lay them out:
  the most that it could give.
- openvino: these layers in OpenVINO, in a process and an environment of its own (`peers/install.sh openvino`), compiled for the
  shapes of each pass, keys and values of own tokens in, new ones out: the most that it could give as a backend, which would have
  to take rows of any length and keep their keys and values. Two streams with a pass each, or one pass on both threads; int8:
  weights, and activations quantised on the way, its own default. Prefix copied: every row brings a copy of the prefix's keys and
  values and reads it through one operation.

Then matrix products in 8-bit integers on the shapes of the models' layers (`kernel_cases/products.py`), by CPU seconds against
the packed float32 product.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from contextlib import ExitStack
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matrix_rate import THREADS
from models import MODELS, ON_CPU, base_of
from record import RESULTS, write_record

NAME = "decoding_kernels"
PARTS = ("compiled", "openvino", "products")
BASELINE = "ours"
_TURN = 0.2
"""Seconds that a turn of the baseline takes at least."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(ON_CPU))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--record", default=NAME, help="name of the record; `none` writes none")
    parser.add_argument("--table", action="store_true", help="measure nothing: print the record's tables")
    options = parser.parse_args()
    if options.table:
        record = json.loads((RESULTS / f"{options.record}.json").read_text(encoding="utf-8"))
        print(tables(record["figures"]["models"]))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Read when torch is loaded: threads that wait are not to count, and every compilation is to start from nothing.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
        for model in options.models:
            figures[model] = compare(model, Path(folder), options)
            if options.record != "none":
                print(write_record(options.record, {"threads": THREADS, "rounds": options.rounds, "models": figures}))
    print(tables(figures))


def compare(model: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one model."""
    import torch
    from kernel_cases.batch import Size
    from kernel_cases.openvino_layers import ENGINE, openvino_cases
    from kernel_cases.passes import torch_cases
    from kernel_cases.products import compare_products
    from transformers import AutoConfig

    from triagekit.modeling.base import base_folder

    base, batch, size = str(base_folder(base_of(model, folder))), folder / f"{model}.safetensors", Size()
    found: dict[str, Any] = {"rows": size.rows, "prefix": size.prefix, "ticket": size.ticket, "not_measured": {}}
    torch.set_num_threads(THREADS)
    with ExitStack() as stack:
        cases: dict[str, Any] = {
            **stack.enter_context(torch_cases(base, size, batch, THREADS, "compiled" not in options.without))
        }
        if "openvino" not in options.without:
            if ENGINE.missing:
                found["not_measured"]["openvino"] = f"its environment is missing: {ENGINE.missing}"
            else:
                cases |= stack.enter_context(openvino_cases(base, batch, THREADS))
        found["passes"] = {str(width): turns(cases, width, options.rounds) for width in size.passes()}
    if "products" not in options.without:
        found["products"] = compare_products(AutoConfig.from_pretrained(base), options.rounds)
    return found


def turns(cases: dict[str, Any], width: int, rounds: int) -> dict[str, Any]:
    """Every case's milliseconds and ratios in the pass of `width` new tokens a row."""
    print(f"\n{width} tokens a row", flush=True)
    facts = {name: case.begin(width) for name, case in cases.items()}
    times = max(1, round(_TURN / cases[BASELINE].run(width, 2)["wall"]))
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases) if number % 2 == 0 else reversed(cases):
            seconds[name].append(cases[name].run(width, times))
    found = {}
    for name, each in seconds.items():
        found[name] = {"difference": float(f"{facts[name]['difference']:.2g}")}
        for clock in ("wall", "cpu"):
            found[name][f"{clock}_ms"] = round(1e3 * median(own[clock] for own in each), 3)
            pairs = zip(each, seconds[BASELINE], strict=True)
            found[name][f"{clock}_ratio"] = round(median(own[clock] / other[clock] for own, other in pairs), 3)
        if "compile_seconds" in facts[name]:
            found[name]["compile_seconds"] = round(facts[name]["compile_seconds"], 1)
        print(f"  {name:30} {json.dumps(found[name])}", flush=True)
    return found


def tables(models: dict[str, Any]) -> str:
    """Markdown: the passes' ratios of CPU seconds, then the products'."""
    heads = [f"{model}, {width}" for model, found in models.items() for width in found["passes"]]
    names = {name: None for found in models.values() for each in found["passes"].values() for name in each}
    lines = [_line("a pass, tokens a row", heads), _line("---", ["---"] * len(heads))]
    for name in names:
        each = [cases.get(name) for found in models.values() for cases in found["passes"].values()]
        lines.append(_line(name, [f"{one['cpu_ratio']:.2f}" if one else "" for one in each]))
    measured = {model: found["products"] for model, found in models.items() if "products" in found}
    columns = {(model, one["rows"]): None for model, products in measured.items() for one in products}
    if columns:
        heads = [f"{model}, {rows:,}" for model, rows in columns]
        lines += ["", _line("a product, rows", heads), _line("---", ["---"] * len(heads))]
        ways = {way: None for products in measured.values() for one in products for way in one["ways"]}
        for way in ways:
            lines.append(_line(way, [_mean(measured[model], rows, way) for model, rows in columns]))
    return "\n".join(lines)


def _mean(products: list[dict[str, Any]], rows: int, way: str) -> str:
    """Geometric mean of the ratios of all layers."""
    ratios = [one["ways"][way]["ratio"] for one in products if one["rows"] == rows and way in one["ways"]]
    return f"{exp(fmean(map(log, ratios))):.2f}" if ratios else ""


def _line(first: str, rest: list[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"


if __name__ == "__main__":
    main()

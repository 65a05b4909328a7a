"""What the compiled loops and the packed weights of the decoder give on a CPU: all of them, none, and all but one.

    python benchmarks/decoding_loops.py [--work .peers/work] [--models embedded] [--rounds 10]

The models and tickets are those of scoring_vs_peers.py. One process on one thread decodes the same tickets under one case
after the other, round after round, and counts CPU seconds: so what else the machine does falls on all cases alike. The
fastest round of each counts, medians are recorded beside. `ratio`: tickets a CPU second over those of plain torch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from models import MODELS, ON_CPU
from record import write_record
from scoring_vs_peers import prepare

LOOPS = ("packed_attention", "pointwise", "text_choice")
PACKED = "packed weights"
CASES: dict[str, tuple[str, ...]] = {
    "all": (),
    "none": (*LOOPS, PACKED),
    **{f"without {name}": (name,) for name in (*LOOPS, PACKED)},
}
BATCH, TICKETS = 64, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(ON_CPU))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tickets", type=int, metavar="N", default=TICKETS)
    parser.add_argument("--work", type=Path, help="keep runs and models in this folder for the next call")
    options = parser.parse_args()
    options.quick, options.engines = False, []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for model in options.models:
            task = json.loads(prepare(model, work, options).read_text(encoding="utf-8"))
            figures[model] = compare(task["runs"]["json"], task["texts"], options.rounds)
    print(write_record("decoding_loops", {"batch": BATCH, "tickets": options.tickets, "models": figures}))


def compare(run: str, texts: list[str], rounds: int) -> dict[str, Any]:
    """Tickets a CPU second of every case."""
    import torch

    from triagekit.scoring.predictor import Predictor

    torch.set_num_threads(1)
    predictors, written = {}, {}
    for name, left_out in CASES.items():
        with left_to_torch(left_out):
            predictors[name] = Predictor.from_run(run, device="cpu", batch_size=BATCH, precision="fp32")
            written[name] = [prediction.text for prediction in predictors[name].predict(texts)]
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, left_out in CASES.items():
            with left_to_torch(left_out):
                begun = time.process_time()
                predictors[name].predict(texts)
                rates[name].append(len(texts) / (time.process_time() - begun))
    found = {}
    for name, each in rates.items():
        same = sum(one == other for one, other in zip(written[name], written["none"], strict=True))
        found[name] = {
            "tickets_per_cpu_second": round(max(each), 2),
            "median": round(median(each), 2),
            "ratio": round(max(each) / max(rates["none"]), 3),
            "same_text": same / len(texts),
        }
        print(f"{Path(run).name}  {name:22} {json.dumps(found[name])}", flush=True)
    return found


@contextmanager
def left_to_torch(parts: Sequence[str]) -> Iterator[None]:
    """As where these loops could not be compiled, and weights not be packed."""
    with ExitStack() as stack:
        for name in parts:
            packed = ("modeling.packed_linear", "decoding.chooser")
            places = packed if name == PACKED else (f"decoding.kernels.{name}",)
            function = "packed_product" if name == PACKED else "library"
            for place in places:
                stack.enter_context(patch.object(import_module(f"triagekit.{place}"), function, lambda *_: None))
        yield


if __name__ == "__main__":
    main()

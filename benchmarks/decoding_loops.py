"""What the compiled loops of the decoder give on a CPU: all of them, none, and all but one.

    python benchmarks/decoding_loops.py [--work .peers/work] [--models embedded] [--rounds 3]

The tickets, models and processes are those of scoring_vs_peers.py, each case in a fresh process with two threads, in turn
and in the other order in the next round; the fastest round of each counts, all are recorded. `ratio`: tickets a second over
those without any loop.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from peers.engines import run_engine
from record import write_record
from scoring_vs_peers import prepare
from training_vs_trl import MODELS

LOOPS = ("own_rows", "pointwise", "text_choice")
CASES = {"all": (), "none": LOOPS, **{f"without {name}": (name,) for name in LOOPS}}
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tickets", type=int, metavar="N")
    parser.add_argument("--work", type=Path, help="keep runs and models in this folder for the next call")
    options = parser.parse_args()
    options.quick, options.engines = False, []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for model in options.models:
            figures[model] = compare(prepare(model, work, options), options.rounds)
    print(write_record("decoding_loops", {"batch": BATCH, "rounds": options.rounds, "models": figures}))


def compare(task: Path, rounds: int) -> dict[str, Any]:
    """Tickets a second of every case on one model."""
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    texts: dict[str, list[str]] = {}
    for number in range(rounds):
        for name in list(CASES) if number % 2 == 0 else reversed(CASES):
            found = run_engine("ours", task, {"batch": BATCH, "left_to_torch": list(CASES[name])})
            rates[name].append(round(len(found["texts"]) / found["seconds"], 2))
            texts[name] = found["texts"]
    base = max(rates["none"])
    result = {
        name: {
            "tickets_per_second": max(each),
            "rounds": each,
            "ratio": round(max(each) / base, 3),
            "same_text": sum(a == b for a, b in zip(texts[name], texts["none"], strict=True)) / len(texts["none"]),
        }
        for name, each in rates.items()
    }
    for name, row in result.items():
        print(f"{task.stem}  {name:22} {row['tickets_per_second']:7.1f} tickets/s  {row['ratio']:.2f}", flush=True)
    return result


if __name__ == "__main__":
    main()

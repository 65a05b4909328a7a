"""`triage baseline`: majority class and TF-IDF + linear model, measured as a run is."""

from __future__ import annotations

import argparse
from pathlib import Path

from triagekit.cli.commands.evaluate import positive, print_metrics
from triagekit.cli.output import RichProgress, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triage baseline`."""
    parser.description = (
        "Measure two baselines on a data set, so that every comparison shows whether the language model was worth it:\n"
        "majority (the most frequent label) and tfidf_linear (TF-IDF + linear SVM), each trained on the train split.\n"
        "Writes DATA/baselines/NAME/{predictions.parquet, metrics.json}."
    )
    parser.epilog = "Example: triage baseline data/processed/it_tickets --split test"
    parser.add_argument("data", metavar="DATA", type=Path, help="a folder made by 'triage data prepare'")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--out", type=Path, help="where to write (default: DATA/baselines)")
    parser.add_argument("--limit", type=positive, help="only the first so many tickets of the split")
    parser.add_argument("--max-train-rows", type=positive, help="train on so many rows only, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="draws the rows and seeds the linear model (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the metrics of both as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure both, then print."""
    from triagekit.evaluation.baselines import evaluate_baselines

    with RichProgress() as progress:
        results = evaluate_baselines(
            options.data,
            split=options.split,
            out=options.out,
            limit=options.limit,
            max_train_rows=options.max_train_rows,
            seed=options.seed,
            progress=progress,
        )
    if options.json:
        print_json(results)
        return 0
    for name, metrics in results.items():
        print_metrics(name, metrics)
    return 0

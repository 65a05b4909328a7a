"""`triage evaluate`: what a run is worth on a split it was not trained on."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from triagekit.cli.output import RichProgress, print_json, print_table
from triagekit.cli.scoring_options import add_scoring_options
from triagekit.errors import TriageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triage evaluate`."""
    parser.description = (
        "Decode a split with a run's adapter and measure it: per-field accuracy and macro-F1, all-fields exact match,\n"
        "valid records before and after the constraint, summary similarity, calibration, coverage against accuracy.\n"
        "Every figure has a 95 % interval. Writes RUN/eval/SPLIT/{predictions.parquet, metrics.json}; predictions of\n"
        "the same adapter on the same tickets are reused. With --calibrate, the confidences are fitted on val first, for\n"
        "`triage score --auto-at`, and judged on the split that is measured. With --precision or --fields, records are\n"
        "decoded as `triage score` would with these, measured and calibrated apart, in RUN/eval/SPLIT/int8+labels for\n"
        "example, and compared with the usual ones of the same tickets where these were evaluated before."
    )
    parser.epilog = (
        "Example: triage evaluate runs/lora-seed1 runs/hybrid-seed1 --split test\n"
        "         triage evaluate runs/lora-seed1 --calibrate\n"
        "         triage evaluate runs/lora-seed1 --precision int8 --fields labels --calibrate"
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders, e.g. runs/lora-seed1")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument(
        "--limit", type=positive, help="only the first so many tickets of the split; a measurement of more stays"
    )
    parser.add_argument(
        "--free-sample",
        type=whole_number,
        default=200,
        help="tickets on which the model also writes unconstrained, to count valid records (default: 200; 0: none)",
    )
    parser.add_argument(
        "--data", type=Path, help="the processed data folder, where it is not at the place the run names"
    )
    parser.add_argument("--base", help="another place of the same base model (its fingerprint is checked)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add_scoring_options(parser)
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="also decode val, fit the confidences on it, store RUN/calibration.json",
    )
    parser.add_argument("--fresh", action="store_true", help="decode again even if the same predictions are on disk")
    parser.add_argument("--json", action="store_true", help="print the metrics of every run as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate every run, then print."""
    from triagekit.evaluation.calibrate import calibrate_run
    from triagekit.evaluation.evaluate import evaluate_run

    if options.calibrate and options.split == "val":
        raise TriageError("--calibrate fits on val, and a fit is not judged on its own tickets. Measure test.")
    results: dict[str, dict[str, Any]] = {}
    mode = {"precision": options.precision or "auto", "fields": options.fields}
    for folder in options.runs:
        with RichProgress() as progress:
            if options.calibrate:
                calibrate_run(
                    folder,
                    base=options.base,
                    fresh=options.fresh,
                    data=options.data,
                    device=options.device,
                    progress=progress,
                    **mode,
                )
            results[str(folder)] = evaluate_run(
                folder,
                split=options.split,
                base=options.base,
                limit=options.limit,
                free_sample=options.free_sample,
                fresh=options.fresh,
                data=options.data,
                device=options.device,
                progress=progress,
                **mode,
            )
        if not options.json:
            print_metrics(str(folder), results[str(folder)], _usual_command(options, folder))
    if options.json:
        print_json(results)
    return 0


def _usual_command(options: argparse.Namespace, folder: Path) -> str:
    """The command that decodes the same tickets in the usual way."""
    given = {"--limit": options.limit, "--base": options.base, "--data": options.data}
    words = ["triage", "evaluate", str(folder), "--split", options.split]
    words += [str(word) for name, value in given.items() if value is not None for word in (name, value)]
    return shlex.join(words)


def print_metrics(name: str, metrics: dict[str, Any], usual: str = "") -> None:
    """One set of metrics as tables. `usual`: the command that measures the usual records of the same tickets, for a mode."""
    from triagekit.evaluation.wording import (
        abstention_rows,
        calibrated_rows,
        field_rows,
        mode_rows,
        overall_rows,
        slice_rows,
    )

    reused = ", predictions reused" if metrics.get("reused") else ""
    if not metrics.get("written", True):
        reused = ", the first of those measured before, which stay"
    mode = f" as {metrics['mode']}" if metrics.get("mode") else ""
    print_table(f"{name} on {metrics['split']}{mode} ({metrics['rows']:,} tickets{reused})", *overall_rows(metrics))
    print_table("", *field_rows(metrics))
    errors, thresholds = calibrated_rows(metrics)
    effect = metrics.get("calibrated") or {}
    title = f"Calibrated on {effect.get('fitted_on')} ({effect.get('fitted_rows')} tickets)"
    for heading, table in (
        ("Beside the usual records of the same tickets", mode_rows(metrics)),
        ("", abstention_rows(metrics)),
        (title, errors),
        ("", thresholds),
        ("", slice_rows(metrics)),
    ):
        if table[1]:
            print_table(heading, *table)
    if mode and metrics["beside_usual"] is None:
        print(
            f"What this mode costs is told beside the usual records of the same tickets: {usual}, then this command again."
        )


def positive(text: str) -> int:
    value = whole_number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
    return int(text)

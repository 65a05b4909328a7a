"""`triage compare`: several runs side by side, and one HTML page about it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from triagekit.cli.output import RichProgress, console, print_json, print_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triage compare`."""
    parser.description = (
        "Compare evaluated runs: were the conditions identical, is the difference beyond noise, what did each cost, was\n"
        "it worth more than a simple baseline. Runs that differ only in their seed are one method. Writes one HTML page\n"
        "that needs no network."
    )
    parser.epilog = "Example: triage compare runs/lora-seed* runs/hybrid-seed* --out report.html"
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="finished, evaluated run folders")
    parser.add_argument("--out", type=Path, help="the HTML report to write, e.g. report.html")
    parser.add_argument("--split", default="test", help="the evaluated split (default: test)")
    parser.add_argument(
        "--baselines",
        default="auto",
        metavar="DATA",
        help="data folder whose baselines are shown; auto: that of the first run (default); none",
    )
    parser.add_argument("--evaluate", action="store_true", help="first evaluate the runs that were not, on this split")
    parser.add_argument("--title", help="heading of the report")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, then print the main table."""
    from triagekit.compare.report import compare_runs

    choices: dict[str, bool | Path] = {"auto": True, "none": False}
    with RichProgress() as progress:
        result = compare_runs(
            options.runs,
            options.out,
            baselines=choices.get(options.baselines, Path(options.baselines)),
            split=options.split,
            title=options.title,
            evaluate=options.evaluate,
            progress=progress,
        )
    if options.json:
        print_json(result)
    else:
        _print(result)
    return 0


def _print(result: dict[str, Any]) -> None:
    from triagekit.compare.wording import main_rows, score_rows

    print_table(f"{result['tickets']:,} tickets of the {result['split']} split", *main_rows(result))
    print_table("", *score_rows(result, intervals=False))
    out = console()
    out.print(f"Conditions: {result['conditions']['verdict']}", markup=False)
    for line in [*result["statements"], *result["notes"]]:
        out.print(f"- {line}", markup=False)
    if result["report"]:
        out.print(f"Report: {Path(result['report']).resolve()}", markup=False)

"""Options that commands which score share: what is written of a record, in which numbers, and who is to look at it."""

from __future__ import annotations

import argparse
from typing import get_args


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """`--fields` and `--precision`; None where they are not given."""
    from triagekit.modeling.settings import ScoringPrecision

    parser.add_argument(
        "--fields",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B",
        help="these fields only; `labels`: all but free text",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(ScoringPrecision),
        help="of the weights; int8 rounds weights and activations; nf4 keeps the base in 4 bits, for small "
        "cards (default: auto)",
    )


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """`--auto-threshold` and `--auto-at`; None where they are not given."""
    parser.add_argument(
        "--auto-threshold", type=float, metavar="P", help="verdict review for labels less sure than this"
    )
    parser.add_argument(
        "--auto-at",
        type=float,
        metavar="P",
        help="verdict auto where the calibrated chance that all labels are right is P or more (needs `triage evaluate "
        "RUN --calibrate`)",
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The option that names one run or several, for jobs whose other settings are `key=value`."""
    parser.add_argument(
        "--run",
        dest="run_folders",
        action="append",
        default=[],
        metavar="RUN",
        help="instead of run=RUN; several, each with its --run, go over the archive in one pass",
    )

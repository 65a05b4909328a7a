"""Options that `triage predict` and `triage score` share: what is written of a record, and in which numbers it is computed."""

from __future__ import annotations

import argparse

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """`--fields` and `--precision`; None where they are not given."""
    parser.add_argument(
        "--fields",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B",
        help="these fields only; `labels`: all but free text",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the weights; int8 rounds weights and activations, on CPUs only (default: auto)",
    )

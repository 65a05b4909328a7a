"""`triage predict RUN "text" …`: a few tickets to records, with the confidence of every field."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from triagekit.cli.scoring_options import add_scoring_options, add_thresholds
from triagekit.errors import Problem, ProblemsError

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.predictor import Prediction


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        'Example: triage predict runs/lora-seed1 "The printer on floor 3 is dead"\n'
        "         triage predict runs/lora-seed1 --file tickets.txt --json | jq .record.category\n"
        "         cat mail.txt | triage predict runs/lora-seed1 --whole\n"
        "         triage predict runs/lora-seed1 --file tickets.txt --fields category,priority --precision int8\n"
        '         triage predict runs/lora-seed1 "The printer is dead" --auto-at 0.9     (after triage evaluate --calibrate)\n\n'
        "Exit code 1: some ticket got no record."
    )
    parser.add_argument("run_folder", metavar="RUN", help="runs/<name> or an adapter folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="one ticket each; none: tickets are read from stdin")
    parser.add_argument("--file", type=Path, help="one ticket a line, or JSON lines with a text column")
    parser.add_argument("--whole", action="store_true", help="the file or stdin as a whole is one ticket")
    parser.add_argument("--text-column", default="text", help="where tickets are JSON lines (default: text)")
    parser.add_argument("--base", help="another place of the same base model; its content is checked")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    add_thresholds(parser)
    add_scoring_options(parser)
    parser.add_argument("--free", action="store_true", help="let the model write freely, then parse")
    parser.add_argument("--json", action="store_true", help="one JSON object a ticket")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Predict and print. 1 if a ticket got no record."""
    from triagekit.scoring.policy import ThresholdPolicy
    from triagekit.scoring.predictor import Predictor
    from triagekit.scoring.ticket_lines import read_tickets

    _check_thresholds(options)
    precision = options.precision or "auto"
    policy = None
    if options.auto_at is not None:  # read before a model is loaded for nothing
        policy = ThresholdPolicy.of_run(options.run_folder, options.auto_at, precision, options.fields)
    texts = read_tickets(options.texts, options.file, sys.stdin, options.whole, options.text_column)
    predictor = Predictor.from_run(
        options.run_folder,
        base=options.base,
        device=options.device,
        precision=precision,
        auto_threshold=options.auto_threshold,
        constrained=not options.free,
        fields=options.fields,
    )
    predictions = predictor.predict(texts)
    if policy is not None:
        predictions, _ = policy.judge(predictions)
    for text, prediction in zip(texts, predictions, strict=True):
        if options.json:
            _print_line(predictor.schema, prediction)
        else:
            _print(text, prediction)
    return 1 if any(prediction.record is None for prediction in predictions) else 0


def _check_thresholds(options: argparse.Namespace) -> None:
    """Raises ProblemsError for what no threshold can mean."""
    given = {"--auto-threshold": options.auto_threshold, "--auto-at": options.auto_at}
    problems = [
        Problem(name, f"{value:g} is no share.", "Give a number above 0, at most 1, such as 0.9.")
        for name, value in given.items()
        if value is not None and not 0 < value <= 1
    ]
    if None not in given.values():
        problems.append(Problem("--auto-at", "decides the same as --auto-threshold.", "Give one of them."))
    if options.free and options.auto_at is not None:
        problems.append(Problem("--auto-at", "needs confidences, and free writing has none.", "Leave --free out."))
    if problems:
        raise ProblemsError("The thresholds cannot be used:", problems)


def _print_line(schema: Schema, prediction: Prediction) -> None:
    import json

    value = prediction.to_json(schema)
    if prediction.record is None:
        value["raw"] = prediction.text
    print(json.dumps(value, ensure_ascii=False))


def _print(text: str, prediction: Prediction) -> None:

    from triagekit.cli.output import print_table

    shown = " ".join(text.split())
    title = f"{prediction.verdict}: {shown if len(shown) <= 90 else shown[:89] + '…'}"
    rows = [
        (name, _shown(value), f"{prediction.confidence[name]:.3f}" if name in prediction.confidence else "")
        for name, value in (prediction.record or {}).items()
    ]
    if prediction.chance is not None:
        rows.append(("all labels right", "", f"{prediction.chance:.3f}"))
    rows += [(problem.field or "ticket", problem.message, "") for problem in prediction.problems]
    print_table(title, ["field", "value", "confidence"], rows)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "null" if value is None else str(value)

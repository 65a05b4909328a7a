"""`triage predict RUN "text" …`: a few tickets to records, with the confidence of every field."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.cli.scoring_options import add_scoring_options

if TYPE_CHECKING:
    from triagekit.scoring.predictor import Prediction


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        'Example: triage predict runs/lora-seed1 "The printer on floor 3 is dead"\n'
        "         triage predict runs/lora-seed1 --file tickets.txt --json | jq .record.category\n"
        "         cat mail.txt | triage predict runs/lora-seed1 --whole\n"
        "         triage predict runs/lora-seed1 --file tickets.txt --fields category,priority --precision int8\n\n"
        "Exit code 1: some ticket got no record."
    )
    parser.add_argument("run_folder", metavar="RUN", help="runs/<name> or an adapter folder")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="one ticket each; none: tickets are read from stdin")
    parser.add_argument("--file", type=Path, help="one ticket a line, or JSON lines with a text column")
    parser.add_argument("--whole", action="store_true", help="the file or stdin as a whole is one ticket")
    parser.add_argument("--text-column", default="text", help="where tickets are JSON lines (default: text)")
    parser.add_argument("--base", help="another place of the same base model; its content is checked")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--auto-threshold", type=float, metavar="P", help="verdict review for labels less sure than this"
    )
    add_scoring_options(parser)
    parser.add_argument("--free", action="store_true", help="let the model write freely, then parse")
    parser.add_argument("--json", action="store_true", help="one JSON object a ticket")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Predict and print. 1 if a ticket got no record."""
    from triagekit.scoring.predictor import Predictor
    from triagekit.scoring.ticket_lines import read_tickets

    texts = read_tickets(options.texts, options.file, sys.stdin, options.whole, options.text_column)
    predictor = Predictor.from_run(
        options.run_folder,
        base=options.base,
        device=options.device,
        precision=options.precision or "auto",
        auto_threshold=options.auto_threshold,
        constrained=not options.free,
        fields=options.fields,
    )
    predictions = predictor.predict(texts)
    for text, prediction in zip(texts, predictions, strict=True):
        (_print_line if options.json else _print)(text, prediction)
    return 1 if any(prediction.record is None for prediction in predictions) else 0


def _print_line(text: str, prediction: Prediction) -> None:
    import json

    value: dict[str, Any] = {
        "record": prediction.record,
        "confidence": {name: round(share, 6) for name, share in prediction.confidence.items()},
        "verdict": prediction.verdict,
        "error": prediction.error,
    }
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
    rows += [(problem.field or "ticket", problem.message, "") for problem in prediction.problems]
    print_table(title, ["field", "value", "confidence"], rows)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "null" if value is None else str(value)

"""`triage train --dry-run`: the plan, one row, what is trained, the loss at the start, and every warning, as text or JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from triagekit.cli.output import RichProgress, console, print_json, print_table

if TYPE_CHECKING:
    from triagekit.training.dry_run import DryRun, RowShown
    from triagekit.training.settings import TrainSettings

TRAINED_OPEN, TRAINED_CLOSE = "«", "»"
TRAINED_STYLE = "bold green"


def print_dry_run(settings: TrainSettings, as_json: bool, say: Callable[[str], None]) -> int:
    """Look at the run on the rung that a start would take, and print what was seen."""
    from triagekit.launching.dry_run import ranks_of_a_start
    from triagekit.training.dry_run import dry_run

    ranks = ranks_of_a_start(settings, say)
    with RichProgress() as bar:
        seen = dry_run(settings, ranks, bar, say)
    if as_json:
        print_json(_as_json(seen))
        return 0
    print_table("Plan (nothing was written)", ["", ""], _plan_rows(seen.plan))
    print_table(
        f"Trained: {seen.report.trainable:,} of {seen.report.total:,} weights ({seen.report.share:.2%})",
        ["kind", "module", "tensors", "shape", "weights"],
        [
            (line["kind"], line["module"], line["tensors"], " × ".join(map(str, line["shape"])), f"{line['weights']:,}")
            for line in seen.report.table()
        ],
    )
    _print_row(seen.row)
    first = seen.plan["first_loss"]
    print(
        f"\nLoss of the first batch, before any step: {first['loss']:.4f} nats a token; ln({first['vocabulary']:,}) = "
        f"{first['ln_vocabulary']:.4f} is that of a model that knows nothing, below {first['usual_below']:.2f} is usual of "
        "this base.\n"
    )
    _print_warnings(seen.plan["warnings"])
    return 0


def _as_json(seen: DryRun) -> dict[str, Any]:
    row = seen.row
    return {
        "plan": {name: value for name, value in seen.plan.items() if name not in {"first_loss", "warnings"}},
        "trainable": seen.report.table(),
        "row": {
            "id": row.id,
            "tokens": row.tokens,
            "trained_tokens": row.trained_tokens,
            "ticket_tokens_cut": row.ticket_tokens_cut,
            "parts": [{"text": text, "trained": trained} for text, trained in row.parts],
        },
        "first_loss": seen.plan["first_loss"],
        "warnings": seen.plan["warnings"],
    }


def _plan_rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    train, val = plan["train"], plan["val"]
    bits = plan["quantization"] and f", base in {plan['quantization']['bits']} bits"
    return [
        ("run", f"{plan['name']}: {plan['method']} on {plan['base']}, data {plan['data']}, schema {plan['schema']}"),
        ("rung", f"{plan['rung'] or 'none'}: {plan['world']} process(es), sharding {plan['sharding']}"),
        ("steps", f"{plan['steps']:,} ({plan['steps_per_epoch']:,} an epoch), val every {plan['evaluate_every']:,}"),
        (
            "batch",
            f"{plan['effective_batch']} rows = {plan['micro_batch']} at once × {plan['accumulation']} accumulated × "
            f"{plan['world']} process(es)",
        ),
        ("packing", plan["packing"]),
        ("precision", f"{plan['precision']}{bits or ''}"),
        (
            "train rows",
            f"{train['rows']:,}, {train['tokens']:,} tokens ({train['tokens_median']} median, {train['tokens_max']} longest, "
            f"limit {plan['max_length']}), {train['trained_tokens']:,} of them trained",
        ),
        ("tickets cut", f"{train['tickets_cut']:,} ({train['ticket_tokens_cut']:,} tokens)"),
        ("val rows", f"{val['rows']:,}"),
        ("prompts", f"{plan['prompt_variants']} variant(s)"),
    ]


def _print_row(row: RowShown) -> None:
    from rich.text import Text

    target = console()
    how = f"in {TRAINED_STYLE}" if target.is_terminal else f"between {TRAINED_OPEN} and {TRAINED_CLOSE}"
    cut = f", {row.ticket_tokens_cut} tokens of its ticket cut" if row.ticket_tokens_cut else ""
    print(f"Row {row.id}: {row.tokens} tokens{cut}; the {row.trained_tokens} trained ones {how}\n")
    text = Text()
    for piece, trained in row.parts:
        if trained and not target.is_terminal:
            piece = f"{TRAINED_OPEN}{piece}{TRAINED_CLOSE}"
        text.append(piece, style=TRAINED_STYLE if trained else "")
    target.print(text, soft_wrap=True)


def _print_warnings(warnings: list[dict[str, str]]) -> None:
    from triagekit.training.signs_of_trouble import Sign, describe_signs

    print(describe_signs([Sign(**warning) for warning in warnings]) or "No signs of trouble.")

"""What `triage data inspect` measures and shows: labels, token lengths, truncation, examples with trained tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from triagekit.cli.output import console, print_table

TRAINED_STYLE = "bold green"
LABELS_SHOWN = 20

Strategy = Literal["explicit", "implicit", "mixed"]


def inspect(folder: Path, base: str, max_length: int, strategy: Strategy, examples: int) -> dict[str, Any]:
    """Figures of a processed data set under a base's tokenizer, as JSON-able values.

    Lengths are of the whole row (prompt, ticket, record, end of turn) before cutting, in tokens; every row is counted.
    """
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.data.rows import SPLITS
    from triagekit.files.yaml_file import YamlDocument
    from triagekit.modeling.base import load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.settings import PromptSettings
    from triagekit.modeling.template import PromptTemplate
    from triagekit.settings import parse_settings

    dataset = ProcessedDataset.open(folder)
    wanted = YamlDocument(None, {"strategy": strategy, "max_length": max_length})
    template = PromptTemplate(load_tokenizer(base), dataset.schema, parse_settings(PromptSettings, wanted))
    segments = SegmentTokenizer(template=template, tokenizer=load_tokenizer(base))
    lengths: dict[str, Any] = {}
    shown: list[list[dict[str, Any]]] = []
    for split in SPLITS:
        whole: list[int] = []
        cut_rows = cut_tokens = 0
        for number, row in enumerate(dataset.rows(split)):
            example = segments.encode_example(row.text, row.record, number % template.variants)
            whole.append(len(example.input_ids) + example.ticket_tokens_cut)
            cut_rows += example.ticket_tokens_cut > 0
            cut_tokens += example.ticket_tokens_cut
            if split == "train" and len(shown) < examples:
                shown.append(_pieces(segments.decode, example.input_ids, example.trained))
        lengths[split] = {**_summary(whole), "rows_cut": cut_rows, "tokens_cut": cut_tokens}
    return {
        "name": dataset.name,
        "schema": dataset.schema.name,
        "base": base,
        "strategy": strategy,
        "max_length": max_length,
        "prefix_tokens": len(segments.prefix_ids(0)),
        "record_reserve_tokens": segments.record_reserve,
        "labels": dataset.manifest.get("labels", {}),
        "slices": dataset.manifest.get("slices", {}),
        "lengths": lengths,
        "examples": shown,
    }


def print_inspection(result: dict[str, Any]) -> None:
    """Tables and coloured examples on the terminal."""
    splits = list(result["lengths"])
    for title, tables in (("", result["labels"]), ("slice ", result["slices"])):
        for name in next((list(tables[split]) for split in splits if tables.get(split)), []):
            counts = [tables[split].get(name, {}) for split in splits]
            values = sorted({value for table in counts for value in table}, key=lambda value: -_total(counts, value))
            rows: list[list[object]] = [
                [value, *(_share(table, value) for table in counts)] for value in values[:LABELS_SHOWN]
            ]
            if len(values) > LABELS_SHOWN:
                others = [sum(table.get(value, 0) for value in values[LABELS_SHOWN:]) for table in counts]
                rows.append([f"… {len(values) - LABELS_SHOWN} more", *others])
            print_table(f"{title}{name}", ["value", *splits], rows)
    columns = ["split", "rows", "min", "median", "p95", "max", "rows cut", "share cut"]
    rows = []
    for split, figures in result["lengths"].items():
        share = figures["rows_cut"] / figures["rows"] if figures["rows"] else 0.0
        named = [figures[name] for name in ("rows", "min", "median", "p95", "max", "rows_cut")]
        rows.append([split, *named, f"{share:.1%}"])
    print_table(
        f"tokens of a row under '{result['base']}', strategy {result['strategy']}; cut at {result['max_length']} "
        f"(prompt {result['prefix_tokens']}, kept free for the record {result['record_reserve_tokens']})",
        columns,
        rows,
    )
    _print_examples(result["examples"])


def _print_examples(examples: Sequence[Sequence[dict[str, Any]]]) -> None:
    from rich.text import Text

    screen = console()
    for number, pieces in enumerate(examples, start=1):
        text = Text(f"\nexample {number} (trained tokens are green; between ⟦ ⟧ where there is no colour)\n", "bold")
        for piece in pieces:
            if piece["trained"] and not screen.is_terminal:
                text.append(f"⟦{piece['text']}⟧")
            else:
                text.append(piece["text"], TRAINED_STYLE if piece["trained"] else "dim")
        screen.print(text)


def _pieces(decode: Any, ids: Sequence[int], trained: Sequence[bool]) -> list[dict[str, Any]]:
    """Runs of tokens that are all trained or all not."""
    pieces: list[dict[str, Any]] = []
    start = 0
    for position in range(1, len(ids) + 1):
        if position == len(ids) or trained[position] != trained[start]:
            pieces.append({"text": decode(ids[start:position]), "trained": trained[start], "tokens": position - start})
            start = position
    return pieces


def _summary(lengths: Sequence[int]) -> dict[str, int]:
    if not lengths:
        return dict.fromkeys(("rows", "min", "median", "p95", "max"), 0)
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {
        "rows": len(ordered),
        "min": ordered[0],
        "median": ordered[last // 2],
        "p95": ordered[round(0.95 * last)],
        "max": ordered[last],
    }


def _total(counts: Sequence[dict[str, int]], value: str) -> int:
    return sum(table.get(value, 0) for table in counts)


def _share(table: dict[str, int], value: str) -> str:
    total = sum(table.values())
    return f"{table.get(value, 0)} ({table.get(value, 0) / total:.1%})" if total else "0"

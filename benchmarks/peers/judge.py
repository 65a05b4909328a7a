"""From what the engines wrote, and how long they took, to the figures of the table."""

from __future__ import annotations

from typing import Any

from triagekit.schema.fields import TextField
from triagekit.schema.parse import ParsedRecord, parse_record
from triagekit.schema.schema import Schema
from triagekit.schema.subset import select_fields


def judge(
    rounds: dict[str, list[dict[str, Any]]],
    sweeps: dict[str, list[dict[str, Any]]],
    schema: Schema,
    facts: dict[str, Any],
    ceilings: dict[str, float],
    per_token: bool = False,
) -> dict[str, dict[str, Any]]:
    """Figures of each engine from its rounds, the fastest of which counts. `ratio`: how many times faster ours is; with
    `per_token` for each token written, where engines write records of other lengths.

    `ceilings`: operations a second by number type, the model's own first; empty where they were not measured. The work is that
    of our prompts and records for every engine.
    """
    best = {name: min(each, key=lambda found: found["seconds"]) for name, each in rounds.items()}
    ours = best["ours"]
    work = 2 * facts["parameters"] * (facts["own_tokens"] + ours["written_tokens"])
    tickets = facts["tickets"]
    our_records = [parse_record(schema, text).record or {} for text in ours["texts"]]
    figures = {}
    for name, found in best.items():
        settings = sweeps[name][0]["settings"]
        own_schema = select_fields(schema, settings["fields"]) if "fields" in settings else schema
        parsed = [parse_record(own_schema, text) for text in found["texts"]]
        records = [each.record or {} for each in parsed]
        same = [one.strip() == other for one, other in zip(found["texts"], ours["texts"], strict=True)]
        figures[name] = {
            "settings": settings,
            "tickets_per_second": round(tickets / found["seconds"], 3),
            "tickets_per_cpu_second": round(tickets / found["cpu_seconds"], 3),
            "peak_memory_bytes": found["peak_memory_bytes"],
            "valid": round(sum(map(is_valid, parsed)) / tickets, 4),
            "same_text": round(sum(same) / tickets, 4),
            "same_labels": round(same_labels(schema, records, our_records), 4),
            "same_by_field": same_by_field(schema, records, our_records),
            "right_labels": round(same_labels(schema, records, facts["records"]), 4),
            "written_tokens": found["written_tokens"],
            "of_ceiling": {kind: round(work / found["seconds"] / rate, 4) for kind, rate in ceilings.items()},
            "ratio": round(cost(found, per_token) / cost(ours, per_token), 3),
            "rounds": [
                {key: round(each[key], 3) for key in ("seconds", "cpu_seconds", "peak_memory_bytes")}
                for each in rounds[name]
            ],
            "sweep": sweeps[name],
        }
    return figures


def is_valid(parsed: ParsedRecord) -> bool:
    """A record of the schema and nothing else, in strict JSON."""
    return parsed.record is not None and not parsed.problems and not parsed.repairs


def cost(found: dict[str, Any], per_token: bool) -> float:
    """Seconds, of the whole or of a written token."""
    return float(found["seconds"]) / (found["written_tokens"] if per_token else 1)


def same_by_field(schema: Schema, records: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, float]:
    """Share of tickets with the same value in both, by field."""
    pairs = list(zip(records, others, strict=True))
    return {
        field.name: round(
            sum(field.name in one and one[field.name] == other.get(field.name) for one, other in pairs) / len(pairs), 4
        )
        for field in schema.fields
    }


def same_labels(schema: Schema, records: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Share of label fields, over all tickets, with the same value in both."""
    names = [field.name for field in schema.fields if not isinstance(field, TextField)]
    pairs = list(zip(records, others, strict=True))
    equal = sum(name in one and one[name] == other.get(name) for one, other in pairs for name in names)
    return equal / (len(names) * len(pairs))


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def show(figures: dict[str, dict[str, Any]], not_measured: dict[str, str]) -> None:
    """The table."""
    columns = (
        "tickets/s",
        "per CPU s",
        "peak MiB",
        "valid",
        "same text",
        "same labels",
        "right",
        "of ceiling",
        "int8's",
        "ours is",
    )
    print(f"{'':29}" + "".join(f"{column:>12}" for column in columns))
    for name, found in figures.items():
        cells = [
            f"{found['tickets_per_second']:.2f}",
            f"{found['tickets_per_cpu_second']:.2f}",
            f"{found['peak_memory_bytes'] / 2**20:.0f}",
            *(_share(found[share]) for share in ("valid", "same_text", "same_labels", "right_labels")),
            _share(next(iter(found["of_ceiling"].values()), None)),
            _share(found["of_ceiling"].get("int8")),
            f"{found['ratio']:.2f} ×",
        ]
        settings = ", ".join(map(str, found["settings"].values()))
        print(f"{name:29}" + "".join(f"{cell:>12}" for cell in cells) + f"   ({settings})")
    for name, reason in not_measured.items():
        print(f"{name}: not measured, {reason.splitlines()[-1]}")

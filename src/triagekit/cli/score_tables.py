"""A finished archive job, and one that runs, as tables for the terminal."""

from __future__ import annotations

import time
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_MOST_FREQUENT = 4


def print_manifest(out: str, manifest: dict[str, Any], published: str | None = None) -> None:
    """What came out, how often each value, how sure. `published`: URL of the copy, if there is one."""
    from triagekit.cli.output import print_table
    from triagekit.files.remote import shown_url

    rows = _summary_rows(manifest)
    if published is not None:
        rows.append(("published", shown_url(published)))
    print_table(f"Scored {out}", ["", ""], rows)
    if manifest["distribution"]:
        heads = ["field", "most frequent values", "values", "confidence 0 → 1", "0.9 and more"]
        print_table("", heads, _field_rows(manifest))


def print_status(status: dict[str, Any]) -> None:
    """How far a job is."""
    from triagekit.cli.output import print_table

    rows: list[tuple[str, object]] = [("state", status["state"])]
    if status.get("message"):
        rows.append(("", status["message"]))
    if "rows_done" in status:
        total = status["rows_total"]
        share = f" of {total:,} ({status['rows_done'] / total:.1%})" if total else ""
        rate, left = status["rows_per_second"], status["seconds_left"]
        rows += [
            ("rows done", f"{status['rows_done']:,}{share}"),
            ("of them", _kinds_of_rows(status)),
            ("rows a second", "–" if rate is None else f"{rate:,.1f}"),
            ("time left", duration(left) if left is not None and status["state"] == "running" else "–"),
            ("review, errors", f"{status['review']:,}, {status['errors']:,}"),
            ("workers lost", status["lost_workers"]),
            ("parts redone", status["parts_redone"]),
            *_decoding_rows(status.get("decoding")),
            ("told", f"{duration(max(0.0, time.time() - status['updated']))} ago by process {status['process']}"),
        ]
    print_table(status["folder"], ["", ""], rows)
    if status.get("workers"):
        heads = ["worker", "at shard", "rows", "rows/s", "errors", "restarts"]
        names = ("worker", "shard", "rows", "rows_per_second", "errors", "restarts")
        print_table("", heads, [[item[name] for name in names] for item in status["workers"]])


def duration(seconds: float) -> str:
    """2 d 3 h, 1 h 5 min, 3 min 20 s or 12 s."""
    whole = round(seconds)
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {name}"
    return f"{whole} s"


def _kinds_of_rows(status: dict[str, Any]) -> str:
    kinds = {"scored now": "rows_scored", "kept": "rows_kept", "rejects": "rejects", "unchanged": "unchanged"}
    return ", ".join(f"{name} {status[key]:,}" for name, key in kinds.items() if status[key]) or "–"


def _decoding_rows(decoding: dict[str, float] | None) -> list[tuple[str, object]]:
    if decoding is None:
        return []
    wasted = f"padding {decoding['prompt_padding']:.1%}, empty places of the batch {decoding['idle_slots']:.1%}"
    return [("decoding", f"{decoding['tokens_per_ticket']:,.1f} tokens a ticket; {wasted}")]


def _summary_rows(manifest: dict[str, Any]) -> list[tuple[str, object]]:
    rate, count = manifest["rows_per_second"], manifest["rows_out"]
    verdicts = ", ".join(f"{name} {rows:,} ({rows / count:.1%})" for name, rows in manifest["verdicts"].items())
    reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in manifest["reject_reasons"].items())
    rows: list[tuple[str, object]] = [
        ("rows in", f"{manifest['rows_in']:,}"),
        ("rows out", f"{count:,} in {len(manifest['parts'])} parts"),
        ("rejects", f"{manifest['rejects']:,}" + (f" ({reasons}), see rejects.jsonl" if reasons else "")),
        *([("unchanged", f"{manifest['unchanged']:,}, scored by an earlier job")] if manifest["unchanged"] else []),
        ("verdicts", verdicts or "–"),
        *_policy_rows(manifest["policy"]),
        ("scored now", f"{manifest['scored_now']:,}" + (f" at {rate:,.1f} rows/s" if rate else "")),
        ("parts kept", manifest["parts_kept"]),
        *_decoding_rows(manifest["decoding"]),
    ]
    if manifest["partitions"]:
        parts = manifest["partitions"]
        rows.append(("partitions", f"{len(parts['rows'])} in {parts['folder']}/"))
    if manifest["parts_redone"]:
        rows.append(("parts redone", "; ".join(manifest["parts_redone"])))
    if manifest["lost_workers"]:
        rows.append(("workers lost", manifest["lost_workers"]))
    return rows


def _policy_rows(policy: dict[str, Any] | None) -> list[tuple[str, object]]:
    """What the threshold on calibrated confidence gave."""
    if policy is None:
        return []
    error = policy["expected_error"]
    fitted = policy["fitted_on"]
    return [
        (f"auto at {policy['auto_at']:g}", f"{policy['coverage']:.1%} of the tickets need nobody"),
        (
            "expected error",
            ("–" if error is None else f"{error:.2%} of them have a wrong label")
            + f", by confidence calibrated on {fitted['rows']:,} tickets ({fitted['split']})",
        ),
    ]


def _field_rows(manifest: dict[str, Any]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, bins in manifest["confidence_histogram"].items():
        counted = manifest["distribution"].get(name)
        total = sum(bins)
        values = "the whole record" if counted is None else _most_frequent(counted, total)
        distinct = "" if counted is None else f"{counted['distinct']:,}"
        sure = f"{bins[-1] / total:.1%}" if total else "–"
        rows.append(["" if counted is None else name, values, distinct, _bars(bins), sure])
    return rows


def _most_frequent(counted: dict[str, Any], total: int) -> str:
    shown = list(counted["values"].items())[:_MOST_FREQUENT]
    return ", ".join(f"{value} {rows / total:.0%}" if total else value for value, rows in shown)


def _bars(bins: list[int]) -> str:
    most = max(bins)
    return "".join(_BARS[round(count / most * (len(_BARS) - 1))] if most else _BARS[0] for count in bins)

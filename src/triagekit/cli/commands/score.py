"""`triage score ARCHIVE --run RUN --out DIR`: a whole archive to records; the same command finishes what was cut off."""

from __future__ import annotations

import argparse
import sys
from typing import Any

SIGNAL_EXIT = 128


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        "Example: triage score tickets.parquet --run runs/lora-seed1 --out scores/2024\n"
        "         triage score export/ --run runs/lora-seed1 --out scores/erp --mapping my_mapping.yaml "
        "--auto-threshold 0.9\n\n"
        "Stopped or killed? The same command scores only the shards that are missing.\n"
        "Exit codes: 0 finished, 2 something to mend, 140 / 143 stopped by SIGUSR2 / SIGTERM between two shards."
    )
    parser.add_argument("archive", help="file or folder: CSV, TSV, JSONL, JSON, Parquet, text; also .gz and .zst")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the config")
    parser.add_argument(
        "--run", required=True, dest="run_folder", metavar="RUN", help="runs/<name> or an adapter folder"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the parts and the manifest")
    parser.add_argument("--config", default="default", help="YAML file or shipped name (default: default)")
    parser.add_argument("--mapping", help="the YAML that `triage data prepare` reads, or a mapping alone")
    parser.add_argument("--text-column", metavar="COLUMN", help="a column, or a template: '{subject}\\n{body}'")
    parser.add_argument("--id-column", metavar="COLUMN", help="default: file and line where there is no id column")
    parser.add_argument("--base", help="another place of the same base model; its content is checked")
    parser.add_argument("--schema", dest="expect_schema", help="refuse a run that was not trained for this schema")
    parser.add_argument("--shard-rows", type=int, metavar="N", help="tickets a part holds")
    parser.add_argument("--batch-size", type=int, metavar="N", help="tickets decoded at once by one worker")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: by GPUs and cores)")
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
    parser.add_argument("--format", dest="output_format", choices=["parquet", "jsonl", "csv"], help="of the parts")
    parser.add_argument(
        "--partition-by", metavar="FIELD", help="at the end, the rows once more in a folder for each value of the field"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.set_defaults(run=run)


_FROM_OPTIONS = (
    "mapping",
    "text_column",
    "id_column",
    "base",
    "expect_schema",
    "shard_rows",
    "batch_size",
    "workers",
    "auto_threshold",
    "auto_at",
    "output_format",
    "partition_by",
    "device",
)


def run(options: argparse.Namespace) -> int:
    """Score, then print what came out."""
    from triagekit.cli.output import RichProgress, print_json
    from triagekit.files.resources import find_config
    from triagekit.files.yaml_file import YamlDocument, load_yaml
    from triagekit.scoring.job import score_archive
    from triagekit.scoring.settings import ScoreSettings
    from triagekit.scoring.stopping import ScoringInterrupted
    from triagekit.settings import parse_settings

    document = load_yaml(find_config("score", options.config))
    given = {name: getattr(options, name) for name in _FROM_OPTIONS if getattr(options, name) is not None}
    data = {**(document.data or {}), "archive": options.archive, "run": options.run_folder, "out": options.out, **given}
    settings = parse_settings(ScoreSettings, YamlDocument(document.path, data, document.lines), options.overrides)
    try:
        with RichProgress() as progress:
            manifest = score_archive(settings, progress).to_dict()
    except ScoringInterrupted as stop:
        print(f"triage: {stop}", file=sys.stderr)
        return SIGNAL_EXIT + stop.signal_number
    if options.json:
        print_json(manifest)
    else:
        _print(options.out, manifest)
    return 0


def _print(out: str, manifest: dict[str, Any]) -> None:
    from triagekit.cli.output import print_table

    rate = manifest["rows_per_second"]
    verdicts = ", ".join(f"{name} {count:,}" for name, count in manifest["verdicts"].items())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in manifest["reject_reasons"].items())
    rows: list[tuple[str, object]] = [
        ("rows in", f"{manifest['rows_in']:,}"),
        ("rows out", f"{manifest['rows_out']:,} in {len(manifest['parts'])} parts"),
        ("rejects", f"{manifest['rejects']:,}" + (f" ({reasons}), see rejects.jsonl" if reasons else "")),
        ("verdicts", verdicts or "–"),
        *_policy_rows(manifest["policy"]),
        ("scored now", f"{manifest['scored_now']:,}" + (f" at {rate:,.1f} rows/s" if rate else "")),
        ("parts kept", manifest["parts_kept"]),
    ]
    if manifest["partitions"]:
        parts = manifest["partitions"]
        rows.append(("partitions", f"{len(parts['rows'])} in {parts['folder']}/"))
    if manifest["parts_redone"]:
        rows.append(("parts redone", "; ".join(manifest["parts_redone"])))
    if manifest["lost_workers"]:
        rows.append(("workers lost", manifest["lost_workers"]))
    print_table(f"Scored {out}", ["", ""], rows)


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

"""`triage data`: prepare, inspect, verify and generate data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.cli.actions import add_action
from triagekit.cli.intermixed import IntermixedParser
from triagekit.cli.output import RichProgress, print_json, print_table
from triagekit.errors import TriageError

if TYPE_CHECKING:
    from triagekit.data.prepare_settings import PrepareSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the four sub-commands."""
    parser.epilog = "Example: triage data prepare it_tickets --source tickets.jsonl --out data/processed/it_tickets"
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, parser_class=IntermixedParser)
    _configure_prepare(actions)
    _configure_inspect(actions)
    _configure_verify(actions)
    _configure_generate(actions)


def _configure_prepare(actions: Any) -> None:
    parser = add_action(
        actions,
        "prepare",
        "from an export to train, val and test without leaks",
        "triage data prepare banking77 --source banking77.parquet --out data/processed/banking77 split.seed=7",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG key=value",
        help="a YAML of configs/data (name or path), then settings to override",
    )
    parser.add_argument("--source", help="file or folder: CSV, TSV, JSON, JSONL, Parquet, text; also .gz and .zst")
    parser.add_argument("--schema", help="schema name or path; needed where no CONFIG is given")
    parser.add_argument("--out", type=Path, help="folder to write (default: data/processed/NAME)")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.set_defaults(run=run_prepare)


def _configure_inspect(actions: Any) -> None:
    parser = add_action(
        actions,
        "inspect",
        "label tables, token lengths, truncation, rendered examples",
        "triage data inspect data/processed/it_tickets --base embedded --max-length 512",
    )
    parser.add_argument("folder", type=Path, help="a processed data set")
    parser.add_argument("--base", default="embedded", help="base whose tokenizer counts (default: embedded)")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of prompt and record (default: 512)")
    parser.add_argument("--strategy", default="explicit", choices=["explicit", "implicit", "mixed"])
    parser.add_argument("--examples", type=int, default=5, help="rendered examples (default: 5)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run_inspect)


def _configure_verify(actions: Any) -> None:
    parser = add_action(
        actions,
        "verify",
        "check fingerprints, labels and leaks; exit code 1 and the reasons where something is wrong",
        "triage data verify data/processed/it_tickets",
    )
    parser.add_argument("folder", type=Path, help="a processed data set")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run_verify)


def _configure_generate(actions: Any) -> None:
    parser = add_action(
        actions,
        "generate",
        "made-up IT tickets with labels, the same for the same seed",
        "triage data generate --rows 5000 --seed 42 --out data/raw/it_tickets.jsonl",
    )
    parser.add_argument("--rows", type=int, required=True, help="number of tickets")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--spanish-share", type=float, default=0.15, help="share in Spanish (default: 0.15)")
    parser.add_argument(
        "--families", default="all", choices=["all", "train", "test"], help="which template families (default: all)"
    )
    parser.add_argument("--out", type=Path, required=True, help="FILE.jsonl, FILE.csv or FILE.parquet")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run_generate)


def run_prepare(options: argparse.Namespace) -> int:
    """Prepare a data set and print what was kept and what was not."""
    from triagekit.data.prepare import prepare

    settings = _prepare_settings(options)
    out = options.out or Path("data/processed") / settings.name
    with RichProgress() as progress:
        report = prepare(settings, out, progress)
    if options.json:
        print_json(report.manifest)
        return 0
    manifest = report.manifest
    counts = manifest["counts"]
    print_table(
        f"{manifest['name']} → {report.folder}",
        ["rows read", "train", "val", "test", "rejects"],
        [[counts[name] for name in ("read", "train", "val", "test", "rejects")]],
    )
    if manifest["rejects"]:
        print_table("rejects (rejects.jsonl has each with its line)", ["reason", "rows"], manifest["rejects"].items())
    print_table("found on the way", ["what", "count"], _findings(manifest))
    if manifest["unused_columns"]:
        print(f"Columns not used: {', '.join(manifest['unused_columns'])}")
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Show what a data set holds and how it looks to a tokenizer."""
    from triagekit.cli.data_inspection import inspect, print_inspection

    result = inspect(options.folder, options.base, options.max_length, options.strategy, options.examples)
    if options.json:
        print_json(result)
    else:
        print_inspection(result)
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Check a data set; 1 where it cannot be trusted."""
    from triagekit.data.verify import verify

    with RichProgress() as progress:
        report = verify(options.folder, progress)
    if options.json:
        print_json(
            {
                "good": report.good,
                "problems": report.problems,
                "counts": report.counts,
                "leak_check": report.leak_check,
            }
        )
    elif report.good:
        rows = ", ".join(f"{split} {count}" for split, count in report.counts.items())
        print(f"{options.folder} is as its manifest says: {rows}; no leaks; every record fits the schema.")
    else:
        print(f"{options.folder} cannot be trusted:")
        for problem in report.problems:
            print(f"  - {problem}")
    return 0 if report.good else 1


def run_generate(options: argparse.Namespace) -> int:
    """Write made-up tickets."""
    from triagekit.data.export import check_ending, write_rows
    from triagekit.data.generator import generate_tickets

    if options.rows < 1:
        raise TriageError(f"--rows {options.rows}: at least one ticket is needed.")
    if not 0 <= options.spanish_share <= 1:
        raise TriageError(f"--spanish-share {options.spanish_share}: give a share between 0 and 1, e.g. 0.15.")
    check_ending(options.out)
    count = write_rows(
        options.out,
        generate_tickets(options.rows, options.seed, families=options.families, spanish_share=options.spanish_share),
    )
    if options.json:
        print_json({"out": str(options.out), "rows": count, "seed": options.seed, "families": options.families})
    else:
        print(f"{count} tickets → {options.out}")
    return 0


def _prepare_settings(options: argparse.Namespace) -> PrepareSettings:
    from triagekit.data.prepare_settings import PrepareSettings
    from triagekit.files.resources import find_config
    from triagekit.files.yaml_file import YamlDocument, load_yaml
    from triagekit.settings import parse_settings

    words: list[str] = list(options.words)
    config = words.pop(0) if words and "=" not in words[0] else None
    if config is None and (options.source is None or options.schema is None):
        raise TriageError("Give a CONFIG (a YAML of configs/data), or both --source FILE and --schema NAME.")
    document = load_yaml(find_config("data", config)) if config else YamlDocument(None, {})
    given = {"source": options.source, "schema": options.schema}
    data = {**(document.data or {}), **{key: value for key, value in given.items() if value is not None}}
    if config is None:
        data.setdefault("name", options.out.name if options.out else Path(options.source).name.split(".")[0])
    return parse_settings(PrepareSettings, YamlDocument(document.path, data, document.lines), words)


def _findings(manifest: dict[str, Any]) -> list[tuple[str, object]]:
    duplicates, conflicts, leaks = manifest["duplicates"], manifest["conflicts"], manifest["leak_check"]
    findings: list[tuple[str, object]] = [
        ("rows that repeat a text and its labels", duplicates["repeated_rows"]),
        ("different texts among the rows kept", duplicates["texts"]),
        ("groups of near-duplicates", duplicates["near_groups"]),
        ("rows in such groups", duplicates["rows_in_near_groups"]),
        ("texts with conflicting labels (conflicts.jsonl)", conflicts["texts"]),
        ("leaks across splits: equal texts", leaks["exact"]),
        ("leaks across splits: near-duplicates", leaks["near"]),
    ]
    findings += manifest["repairs"].items()
    return findings

"""`triage score ARCHIVE --run RUN --out DIR`: a whole archive to records; the same command finishes what was cut off."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from triagekit.cli.scoring_options import add_scoring_options, add_thresholds
from triagekit.errors import TriageError

SIGNAL_EXIT = 128


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        "Example: triage score tickets.parquet --run runs/lora-seed1 --out scores/2024\n"
        "         triage score export/ --run runs/lora-seed1 --out scores/erp --mapping my_mapping.yaml "
        "--auto-threshold 0.9\n"
        "         triage score export.csv --run runs/lora-seed1 --out scores/erp --carry product,year --partition-by year\n"
        "         triage score tickets.parquet --run runs/tickets --run runs/change_risk --out scores/2024\n"
        "                                             (both in one pass, into scores/2024/tickets and …/change_risk)\n"
        "         triage score status scores/2024     (from another terminal: how far it is)\n\n"
        "Stopped or killed? The same command scores only the shards that are missing.\n"
        "Exit codes: 0 finished, 2 something to mend, 140 / 143 stopped by SIGUSR2 / SIGTERM between two shards."
    )
    parser.add_argument(
        "archive",
        help="file, folder or URL (s3://, gs://, hdfs://): CSV, TSV, JSONL, JSON, Parquet, text; also .gz and .zst",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the config")
    parser.add_argument(
        "--run",
        dest="run_folders",
        action="append",
        metavar="RUN",
        help="runs/<name> or an adapter folder (needed); several, each with its --run, go over the archive in one pass",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the parts and the manifest (needed)")
    parser.add_argument("--config", default="default", help="YAML file or shipped name (default: default)")
    parser.add_argument("--mapping", help="the YAML that `triage data prepare` reads, or a mapping alone")
    parser.add_argument("--text-column", metavar="COLUMN", help="a column, or a template: '{subject}\\n{body}'")
    parser.add_argument("--id-column", metavar="COLUMN", help="default: file and line where there is no id column")
    parser.add_argument("--base", help="another place of the same base model; its content is checked")
    parser.add_argument("--schema", dest="expect_schema", help="refuse a run that was not trained for this schema")
    add_scoring_options(parser)
    parser.add_argument("--shard-rows", type=int, metavar="N", help="tickets a part holds")
    parser.add_argument("--batch-size", type=int, metavar="N", help="tickets decoded at once by one worker")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: by GPUs and cores)")
    add_thresholds(parser)
    parser.add_argument("--format", dest="output_format", choices=["parquet", "jsonl", "csv"], help="of the parts")
    parser.add_argument(
        "--carry",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="A,B",
        help="columns of the input that go into the output too, as text: product,opened_at",
    )
    parser.add_argument(
        "--partition-by",
        metavar="COLUMN",
        help="at the end, the rows once more in a folder for each value of a label field, of verdict or of a carried column",
    )
    parser.add_argument(
        "--append-since", metavar="DIR", help="score only what is new or changed since the finished job in DIR"
    )
    parser.add_argument(
        "--publish", metavar="URL", help="copy the finished folder to s3://, gs:// or hdfs://, the manifest last"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the manifest, or the status, as JSON")
    parser.set_defaults(run=run)


_FROM_OPTIONS = (
    "mapping",
    "text_column",
    "id_column",
    "base",
    "expect_schema",
    "fields",
    "carry",
    "precision",
    "shard_rows",
    "batch_size",
    "workers",
    "auto_threshold",
    "auto_at",
    "output_format",
    "partition_by",
    "append_since",
    "publish",
    "device",
)


def run(options: argparse.Namespace) -> int:
    """Score, then print what came out; or tell how far a job is."""
    if options.archive == "status" and options.run_folders is None and options.out is None:
        return _status(options.overrides, options.json)
    absent = [name for name, value in (("--run", options.run_folders), ("--out", options.out)) if value is None]
    if absent:
        raise TriageError(f"triage score needs {' and '.join(absent)}; see triage score --help")
    from triagekit.cli.output import RichProgress, print_json
    from triagekit.cli.score_tables import print_manifest
    from triagekit.files.resources import find_config
    from triagekit.files.yaml_file import YamlDocument, load_yaml
    from triagekit.scoring.job import score_archives
    from triagekit.scoring.settings import ScoreSettings, for_runs
    from triagekit.scoring.stopping import ScoringInterrupted
    from triagekit.settings import parse_settings

    document = load_yaml(find_config("score", options.config))
    given = {name: getattr(options, name) for name in _FROM_OPTIONS if getattr(options, name) is not None}
    runs = options.run_folders
    data = {**(document.data or {}), "archive": options.archive, "run": runs[0], "out": options.out, **given}
    settings = parse_settings(ScoreSettings, YamlDocument(document.path, data, document.lines), options.overrides)
    many = for_runs(settings, runs)
    try:
        # What Ray has to say of its processes it prints where the result is to stand alone.
        with RichProgress() as progress, redirect_stdout(sys.stderr):
            manifests = [manifest.to_dict() for manifest in score_archives(many, progress)]
    except ScoringInterrupted as stop:
        print(f"triage: {stop}", file=sys.stderr)
        return SIGNAL_EXIT + stop.signal_number
    if options.json:
        print_json(manifests[0] if len(manifests) == 1 else {"jobs": manifests})
    else:
        for own, manifest in zip(many, manifests, strict=True):
            print_manifest(own.out, manifest, own.publish)
    return 0


def _status(words: list[str], as_json: bool) -> int:
    """`triage score status DIR`."""
    from pathlib import Path

    from triagekit.cli.output import print_json
    from triagekit.cli.score_tables import print_status
    from triagekit.scoring.status import job_folders, read_status

    if len(words) != 1:
        raise TriageError("Give the job's output folder: triage score status DIR")
    found = [read_status(folder) for folder in job_folders(Path(words[0]).expanduser())]
    if as_json:
        print_json(found[0] if len(found) == 1 else {"jobs": found})
    else:
        for status in found:
            print_status(status)
    return 0

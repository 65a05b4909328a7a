"""`triage jobs`: what waits, runs and has ended; `triage jobs logs|cancel`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triagekit.cluster.job_table import JobRow

_COLUMNS = ["job", "run", "kind", "state", "rung", "node", "step", "loss", "steps/s", "left", "restarts", "reason"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the table and its two actions."""
    parser.description = (
        "A table of runs and jobs: Slurm's queue for what waits and runs, the run folders for how far it came.\n"
        "Works without Slurm too, from the run folders alone."
    )
    parser.epilog = (
        "Example: triage jobs --watch\n         triage jobs logs runs/lora-seed1 --follow\n"
        "         triage jobs cancel runs/lora-seed1 1234_5"
    )
    _add_root(parser, "runs")
    parser.add_argument(
        "--watch", action="store_true", help="draw it again until nothing waits or runs; Ctrl-C ends it"
    )
    parser.add_argument(
        "--every",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="with --watch: time between two looks (default: 5)",
    )
    parser.add_argument("--all", action="store_true", help="with what went well and earlier submissions")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=show)
    actions = parser.add_subparsers(title="actions", metavar="[logs|cancel]")
    plain = argparse.RawDescriptionHelpFormatter

    logs = actions.add_parser("logs", help="what a job wrote", formatter_class=plain)
    logs.epilog = "Example: triage jobs logs lora-seed1 --follow"
    logs.add_argument("target", metavar="RUN|ID", help="a run (path, or name below --run-root) or a job's number")
    logs.add_argument("--follow", action="store_true", help="go on printing until the job has ended")
    _add_root(logs, argparse.SUPPRESS)
    logs.set_defaults(run=print_logs)

    cancel = actions.add_parser("cancel", help="take jobs out of the queue, running ones too", formatter_class=plain)
    cancel.epilog = "Example: triage jobs cancel lora-seed1 1234_5"
    cancel.add_argument("targets", metavar="RUN|ID", nargs="+", help="runs, sweeps, pipelines, or numbers of jobs")
    _add_root(cancel, argparse.SUPPRESS)
    cancel.set_defaults(run=cancel_jobs)


def _add_root(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--run-root",
        type=Path,
        default=Path(default) if default != argparse.SUPPRESS else default,
        metavar="DIR",
        help="folder that holds the run folders (default: runs)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds") from None
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1 second: every look asks Slurm's controller")
    return value


def show(options: argparse.Namespace) -> int:
    """The table, once or until everything has ended."""
    from triagekit.cli.output import print_json
    from triagekit.cluster.job_table import read_table

    if options.watch and not options.json:
        return _watch(options)
    rows, why = read_table(options.run_root)
    rows = _chosen(rows, options.all)
    if options.json:
        print_json({"slurm": why or "asked", "jobs": [dataclasses.asdict(row) for row in rows]})
        return 0
    _print(rows, options.run_root)
    if why:
        print(f"triage: {why}", file=sys.stderr)
    return 0


def _chosen(rows: Sequence[JobRow], everything: bool) -> list[JobRow]:
    """Without --all: of jobs that are no runs only the newest of each, and none that went well."""
    if everything:
        return list(rows)
    newest = {(row.kind, row.run): row for row in rows}
    return [row for row in rows if newest[row.kind, row.run] is row and (row.is_run or row.state != "finished")]


def _watch(options: argparse.Namespace) -> int:
    from triagekit.cli.output import console
    from triagekit.cluster.job_table import read_table

    while True:
        rows, why = read_table(options.run_root)
        if sys.stdout.isatty():
            console().clear()
        _print(_chosen(rows, options.all), options.run_root)
        if why:
            print(f"triage: {why}", file=sys.stderr)
        if not any(row.is_live for row in rows):
            return 0
        sys.stdout.flush()
        time.sleep(options.every)


def _cells(row: JobRow) -> list[Any]:
    from triagekit.cluster.durations import in_words

    step = f"{row.step}/{row.steps}" if row.steps and row.step is not None else row.step
    return [
        row.job,
        row.run,
        row.kind,
        row.state,
        row.rung,
        row.node,
        step,
        None if row.loss is None else f"{row.loss:.4f}",
        None if row.rate is None else f"{row.rate:.3g}",
        None if row.eta is None else in_words(row.eta),
        row.restarts or None,
        row.reason,
    ]


def _print(rows: Sequence[JobRow], root: Path) -> None:
    from triagekit.cli.output import print_table

    live = sum(row.is_live for row in rows)
    print_table(f"{len(rows)} in {root}, {live} waiting or running", _COLUMNS, [_cells(row) for row in rows])


def print_logs(options: argparse.Namespace) -> int:
    """The log, to its end or as it grows."""
    from triagekit.cluster.job_search import follow, live_jobs_of, logs_of
    from triagekit.errors import TriageError

    def is_over() -> bool:
        try:
            return not live_jobs_of(options.target, options.run_root)
        except TriageError:
            return True

    logs = logs_of(options.target, options.run_root)
    for path in logs:
        if len(logs) > 1:
            print(f"==> {path} <==", flush=True)
        watched = options.follow and path == logs[-1]
        for text in follow(path, is_over if watched else lambda: True):
            print(text, end="", flush=True)
    return 0


def cancel_jobs(options: argparse.Namespace) -> int:
    """Cancel all of them, or none where one of the targets cannot be found."""
    from triagekit.cluster.job_search import live_jobs_of
    from triagekit.cluster.slurm_commands import scancel

    ids = [job for target in options.targets for job in live_jobs_of(target, options.run_root)]
    scancel(*dict.fromkeys(ids))
    print(f"Cancelled: {', '.join(dict.fromkeys(ids))}. What was trained stays; submitting again goes on from there.")
    return 0

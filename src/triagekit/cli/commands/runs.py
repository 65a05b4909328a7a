"""`triage runs list|show|rm`: what has been trained, without importing torch."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triagekit.training.run_folder import RunFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their arguments."""
    parser.epilog = "Example: triage runs list --root runs"
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    plain = argparse.RawDescriptionHelpFormatter

    listing = actions.add_parser("list", help="every run below a folder", formatter_class=plain)
    listing.epilog = "Example: triage runs list --json"
    listing.add_argument("--root", default="runs", help="folder that holds the run folders (default: runs)")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=list_command)

    showing = actions.add_parser("show", help="one run: settings, plan, result", formatter_class=plain)
    showing.epilog = "Example: triage runs show runs/lora-seed0"
    showing.add_argument("target", metavar="RUN", help="a run folder, or a run's name below --root")
    showing.add_argument("--root", default="runs", help="folder that holds the run folders (default: runs)")
    showing.add_argument("--json", action="store_true", help="print JSON")
    showing.set_defaults(run=show_command)

    removing = actions.add_parser("rm", help="remove a run with its checkpoints and adapter", formatter_class=plain)
    removing.epilog = "Example: triage runs rm runs/lora-seed0 --yes"
    removing.add_argument("target", metavar="RUN", help="a run folder, or a run's name below --root")
    removing.add_argument("--root", default="runs", help="folder that holds the run folders (default: runs)")
    removing.add_argument("--yes", action="store_true", help="do not ask")
    removing.set_defaults(run=remove_command)


def list_command(options: argparse.Namespace) -> int:
    """One line a run."""
    from triagekit.cli.output import print_json, print_table
    from triagekit.training.run_folder import list_runs

    runs = list_runs(options.root)
    if options.json:
        print_json([dataclasses.asdict(run) for run in runs])
        return 0
    rows = [
        (
            run.name,
            run.status,
            run.method,
            run.seed,
            f"{run.step}/{run.steps}" if run.steps else run.step,
            None if run.val_loss_best is None else f"{run.val_loss_best:.4f}",
            None if run.seconds is None else f"{run.seconds:.1f}",
            Path(run.data).name,
        )
        for run in runs
    ]
    columns = ["run", "status", "method", "seed", "step", "val loss", "seconds", "data"]
    print_table(f"{len(runs)} run{'s' if len(runs) != 1 else ''} in {options.root}", columns, rows)
    return 0


def show_command(options: argparse.Namespace) -> int:
    """Result first, then plan, then settings."""
    from triagekit.cli.output import print_json, print_table

    folder = _find(options)
    summary, plan, settings = folder.read(folder.summary), folder.read(folder.plan), folder.settings()
    if options.json:
        print_json(
            {"run": str(folder.folder), "status": folder.status, "summary": summary, "plan": plan}
            | {"settings": settings}
        )
        return 0
    print_table(f"Run {folder.folder}: {folder.status}", ["result", ""], _flat(summary))
    print_table("", ["plan", ""], _flat({key: value for key, value in plan.items() if key != "matched"}))
    print_table("", ["setting", ""], _flat(settings))
    return 0


def remove_command(options: argparse.Namespace) -> int:
    """Ask, unless --yes, then remove."""
    folder = _find(options)
    if not options.yes:
        if not sys.stdin.isatty():
            print("triage: nobody to ask here; add --yes to remove without asking.", file=sys.stderr)
            return 2
        if input(f"Remove {folder.folder} with everything in it? [y/N] ").strip().lower() not in {"y", "yes"}:
            print("Nothing removed.")
            return 1
    folder.remove()
    print(f"Removed {folder.folder}.")
    return 0


def _find(options: argparse.Namespace) -> RunFolder:
    from triagekit.training.run_folder import RunFolder

    given = Path(options.target)
    below_root = Path(options.root) / options.target
    return RunFolder.open(below_root if not given.exists() and len(given.parts) == 1 else given)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows.extend(_flat(value, f"{prefix}{key}."))
        elif value is not None and value != {}:
            rows.append((f"{prefix}{key}", value))
    return rows

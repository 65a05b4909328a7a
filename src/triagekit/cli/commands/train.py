"""`triage train CONFIG [key=value …]`: one run, one folder; the same command continues it."""

from __future__ import annotations

import argparse
import sys

SIGNAL_EXIT = 128


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        "Example: triage train lora data=data/processed/demo seed=1\n"
        "         triage train my.yaml optimizer.learning_rate=1e-3 adapter.r=32 --name wide\n\n"
        "Stopped or killed? The same command goes on from the newest complete checkpoint.\n"
        "Exit codes: 0 finished, 2 something to mend, 130 / 143 stopped by Ctrl-C / SIGTERM with a checkpoint."
    )
    parser.add_argument("config", help="a YAML file, or the name of a shipped preset such as lora, hybrid, full")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parser.add_argument("--name", help="name of the run folder (default: <config>-seed<seed>)")
    parser.add_argument("--json", action="store_true", help="print the run's summary as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, then print where the run is and what came out."""
    from triagekit.cli.output import RichProgress, print_json, print_table
    from triagekit.training.stopping import TrainingInterrupted
    from triagekit.training.train import load_train_settings, train

    settings = load_train_settings(options.config, options.overrides, options.name)
    try:
        with RichProgress() as progress:
            folder = train(settings, progress, notes=_say)
    except TrainingInterrupted as stop:
        _say(str(stop))
        return SIGNAL_EXIT + stop.signal_number
    summary = folder.read(folder.summary)
    if options.json:
        print_json({"run": str(folder.folder), **summary})
        return 0
    best = summary.get("best")
    rows = [
        ("method", f"{summary['method']}, {summary['trainable']:,} of {summary['total']:,} weights trained"),
        ("steps", f"{summary['steps']} of {summary['steps_planned']}" + _early(summary["stopped_early"])),
        ("best on val", f"{best['metric']} {best['value']:.4f} at step {best['step']}" if best else "not measured"),
        ("token accuracy on val", _share(summary["token_accuracy_val"])),
        ("time", f"{summary['seconds']:.1f} s, {summary['rows_per_second']} rows/s"),
        ("peak memory", f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"),
        ("adapter", folder.adapter),
    ]
    print_table(f"Run {folder.folder}", ["", ""], rows)
    return 0


def _say(text: str) -> None:
    print(f"triage: {text}", file=sys.stderr)


def _early(stopped: bool) -> str:
    return " (stopped early: no more improvement on val)" if stopped else ""


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2%}"

"""`triage train CONFIG [key=value …]`: one run, one folder; the same command continues it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from triagekit.errors import TriageError

if TYPE_CHECKING:
    from triagekit.training.run_folder import RunFolder
    from triagekit.training.settings import TrainSettings

SIGNAL_EXIT = 128
FAILED = 1
FIELDS_SHOWN = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        "Example: triage train lora data=data/processed/demo seed=1\n"
        "         triage train my.yaml optimizer.learning_rate=1e-3 adapter.r=32 --name wide\n"
        "         triage train my.yaml --rung 2xA100      (see them all: triage plan my.yaml)\n"
        "         triage train my.yaml --find-lr          (which learning rate to take)\n"
        "         triage train my.yaml --dry-run          (what it would do, and what is strange about it)\n\n"
        "Stopped or killed? The same command goes on from the newest complete checkpoint.\n"
        "Exit codes: 0 finished, 2 something to mend, 130 / 143 / 140 stopped by Ctrl-C / SIGTERM / SIGUSR2 with a\n"
        "checkpoint, 1 anything else."
    )
    parser.add_argument("config", help="a YAML file, or the name of a shipped preset such as lora, hybrid, full")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parser.add_argument("--name", help="name of the run folder (default: <config>-seed<seed>)")
    parser.add_argument(
        "--rung", help="short for hardware.rung=: auto (the best that fits), none (as the settings stand), or a name"
    )
    parser.add_argument(
        "--find-lr",
        nargs="?",
        const=100,
        type=int,
        metavar="STEPS",
        help="no training: a test of learning rates (100 steps unless STEPS is given), with a plot in the run folder",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing: the plan, one row as the model reads it, what is trained, the loss at the start, warnings",
    )
    parser.add_argument("--json", action="store_true", help="print the run's summary, or the dry run, as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, then print where the run is and what came out."""
    from triagekit.cli.commands.find_rate import find_rate
    from triagekit.cli.output import RichProgress, print_json, print_table
    from triagekit.launching.outcome import RanksFailed, StoppedBeforeTraining
    from triagekit.launching.rank import has_launcher
    from triagekit.launching.rendezvous import is_first_node
    from triagekit.launching.reports import own_rank
    from triagekit.launching.start import launch
    from triagekit.training.stopping import TrainingInterrupted
    from triagekit.training.train import load_train_settings

    overrides = [*options.overrides, f"hardware.rung={options.rung}"] if options.rung else options.overrides
    if options.dry_run:
        from triagekit.cli.dry_run import print_dry_run

        return print_dry_run(load_train_settings(options.config, overrides, options.name), options.json, _say)
    if has_launcher():
        return _report(options, overrides)
    try:
        settings = load_train_settings(options.config, overrides, options.name)
        if options.find_lr is not None:
            return find_rate(settings, options.find_lr, options.json)
        if own_rank() is None:
            notes = _say if is_first_node() else _say_nothing
            folder = launch(settings, _rank_words(options, overrides), RichProgress, notes)
            if not is_first_node():
                return 0
        else:
            folder = _under_other_launcher(settings)
            if own_rank():
                return 0
    except (TrainingInterrupted, StoppedBeforeTraining) as stop:
        if is_first_node():
            _say(str(stop))
        return SIGNAL_EXIT + stop.signal_number
    except RanksFailed as error:
        _say(str(error))
        return FAILED
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
        *_value_accuracy(summary.get("value_accuracy_val") or {}),
        ("time", f"{summary['seconds']:.1f} s, {summary['rows_per_second']} rows/s"),
        ("peak memory", f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB"),
        ("adapter", folder.adapter),
    ]
    print_table(f"Run {folder.folder}", ["", ""], rows)
    if summary.get("value_accuracy_val"):
        print("* each value predicted behind the true record before it; `triage evaluate` lets the model write alone.")
    return 0


def _rank_words(options: argparse.Namespace, overrides: list[str]) -> list[str]:
    """Words for `triage` from which a rank reads exactly these settings."""
    named = [f"--name={options.name}"] if options.name is not None else []
    return ["train", *named, *(["--offline"] if options.offline else []), "--", options.config, *overrides]


def _report(options: argparse.Namespace, overrides: list[str]) -> int:
    """One of the ranks that `triage train` has started: what happens is told to that process, and told there."""
    from triagekit.cli.output import RichProgress
    from triagekit.launching.rank import run_in_rank, train_in_rank
    from triagekit.launching.reports import RankReport, own_rank
    from triagekit.training.train import load_train_settings

    def work() -> RankReport:
        train_in_rank(load_train_settings(options.config, overrides, options.name), RichProgress, _say)
        return RankReport(own_rank() or 0, "finished")

    return run_in_rank(work)


def _under_other_launcher(settings: TrainSettings) -> RunFolder:
    """A rank of torchrun or accelerate launch: an error names its rank, for nobody gathers them."""
    from triagekit.cli.output import RichProgress
    from triagekit.launching.rank import train_in_rank
    from triagekit.launching.reports import own_rank

    try:
        return train_in_rank(settings, RichProgress, _say)
    except TriageError as error:
        raise TriageError(f"[rank {own_rank()}] {error}") from None


def _say(text: str) -> None:
    print(f"triage: {text}", file=sys.stderr)


def _say_nothing(text: str) -> None:
    return None


def _early(stopped: bool) -> str:
    return " (stopped early: no more improvement on val)" if stopped else ""


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2%}"


def _value_accuracy(shares: dict[str, float]) -> list[tuple[str, str]]:
    """A line of the closing table, if it stays one."""
    if not 0 < len(shares) <= FIELDS_SHOWN:
        return []
    return [("values right on val*", ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))]

"""`triage sweep CONFIG [key=value …]`: methods × learning rates × seeds on this machine, and one report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triagekit.sweep.choice import RateChoice
    from triagekit.sweep.local import SweepResult
    from triagekit.sweep.settings import SweepSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = (
        "Example: triage sweep sweep_methods overrides='[data=data/processed/mine]' --jobs 2\n\n"
        "Trains every member that is not finished yet, tries the learning rates of each method with the first seed, takes\n"
        "the one that is best on the validation split for the other seeds, evaluates, and writes OUTPUT/NAME/report.html.\n"
        "Stopped or killed? The same command goes on. On a cluster: triage submit sweep."
    )
    parser.add_argument("config", help="a YAML file, or the name of a shipped sweep (configs/sweep/)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once, sharing the cores (default: 1)")
    parser.add_argument("--split", default="test", help="the split that the report is on (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first so many tickets of the split")
    parser.add_argument(
        "--free-sample",
        type=int,
        default=0,
        metavar="N",
        help="tickets on which the models also write unconstrained, to count valid records (default: 0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs; train nothing")
    parser.add_argument("--json", action="store_true", help="print runs and chosen learning rates as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, choose, evaluate, compare; print what was chosen and where the report is."""
    from triagekit.cli.output import RichProgress, print_json, print_table
    from triagekit.errors import TriageError
    from triagekit.sweep.local import run_sweep
    from triagekit.sweep.settings import load_sweep
    from triagekit.sweep.tasks import TasksStopped

    if options.jobs < 1:
        raise TriageError(f"--jobs is how many runs there are at once, at least 1; got {options.jobs}.")
    sweep = load_sweep(options.config, options.overrides)
    if options.dry_run:
        return _list(options, sweep)
    try:
        with RichProgress() as progress:
            result = run_sweep(sweep, _evaluation(options), options.jobs, options.offline, progress, _say)
    except TasksStopped as stop:
        _say(str(stop))
        return stop.exit_code
    report = _report(result, options)
    if options.json:
        runs = [str(folder) for folder in result.runs]
        print_json(
            {"report": str(report), "runs": runs, "learning_rates": [choice.to_json() for choice in result.choices]}
        )
        return 0
    if result.choices:
        rows = [(choice.method, _tried(choice), f"{choice.chosen:g}") for choice in result.choices]
        print_table("Learning rates, by the validation loss of the first seed", ["method", "tried", "chosen"], rows)
    print(f"{len(result.runs)} runs compared: {report}")
    return 0


def _evaluation(options: argparse.Namespace) -> list[str]:
    """Words for `triage evaluate`."""
    limit = [] if options.limit is None else ["--limit", str(options.limit)]
    return ["--split", options.split, "--free-sample", str(options.free_sample), *limit]


def _list(options: argparse.Namespace, sweep: SweepSettings) -> int:
    from triagekit.cli.output import print_json, print_table
    from triagekit.sweep.choice import members_of
    from triagekit.training.run_folder import RunFolder

    rows = [(member.name, RunFolder(member.run).is_finished, str(member.run)) for member in members_of(sweep)]
    if options.json:
        print_json([{"member": name, "finished": finished, "run": run} for name, finished, run in rows])
        return 0
    shown = [(name, "finished" if finished else "open", run) for name, finished, run in rows]
    print_table(f"Sweep {sweep.name}", ["member", "", "run"], shown)
    return 0


def _report(result: SweepResult, options: argparse.Namespace) -> Path:
    """Baselines trained on as many rows, then the comparison of all."""
    from triagekit.cli.output import RichProgress
    from triagekit.compare.design import Design
    from triagekit.compare.report import compare_runs
    from triagekit.evaluation.baselines import evaluate_baselines
    from triagekit.files.atomic import write_json
    from triagekit.training.run_folder import RunFolder

    first = RunFolder(next(iter(result.runs))).settings()
    baselines, report = result.folder / "baselines", result.folder / "report.html"
    with RichProgress() as progress:
        evaluate_baselines(
            Path(str(first["data"])),
            split=options.split,
            out=baselines,
            limit=options.limit,
            max_train_rows=first["max_train_rows"],
            seed=first["seed"],
            progress=progress,
        )
        compared = compare_runs(
            list(result.runs),
            report,
            baselines=baselines,
            split=options.split,
            title=f"Sweep {result.folder.name}",
            progress=progress,
            design=Design(result.runs, result.method_settings, result.chosen_settings),
        )
    write_json(result.folder / "comparison.json", compared)
    return report


def _tried(choice: RateChoice) -> str:
    return ", ".join(
        f"{rate:g}: {'open' if loss is None else f'{loss:.4f}'}" for rate, loss in choice.val_losses.items()
    )


def _say(text: str) -> None:
    print(f"triage: {text}", file=sys.stderr)

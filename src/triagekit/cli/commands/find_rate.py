"""`triage train CONFIG --find-lr`: a test of learning rates, and what it says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triagekit.training.settings import TrainSettings


def find_rate(settings: TrainSettings, steps: int, as_json: bool) -> int:
    """Run the test in this process as the settings stand, print the rate it suggests and where the plot is."""
    from triagekit.cli.output import RichProgress, print_json, print_table
    from triagekit.training.rate_finder import PLOT, find_learning_rate

    def say(text: str) -> None:
        print(f"triage: {text}", file=sys.stderr)

    with RichProgress() as progress:
        finding, place = find_learning_rate(settings, steps, progress, say)
    plot = place / PLOT
    try:
        from triagekit.training.rate_plot import plot_rates

        plot_rates(finding, plot, f"{settings.run_name}: loss over the learning rate")
    except ImportError:
        say("no plot: matplotlib is not installed (pip install 'triagekit[compare]'). The figures are in losses.json.")
        plot = place
    if as_json:
        print_json(
            {name: getattr(finding, name) for name in ("steepest", "suggested", "lowest")} | {"folder": str(place)}
        )
        return 0
    if finding.suggested is None:
        print(f"The loss never fell, at no rate from {finding.rates[0]:g} to {finding.rates[-1]:g}: {plot}")
        return 1
    rows = [
        ("loss falls most steeply at", f"{finding.steepest:.2g}"),
        ("loss is lowest at", f"{finding.lowest:.2g}, the upper end"),
        ("suggested, between the two", f"{finding.suggested:.2g}"),
        ("in the settings", f"{settings.optimizer.learning_rate:.2g}"),
        ("plot", plot),
    ]
    print_table(f"Learning-rate test of {settings.run_name}, {len(finding.rates)} steps", ["", ""], rows)
    return 0

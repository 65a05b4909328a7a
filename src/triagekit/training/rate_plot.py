"""The curve of a learning-rate test as a picture."""

from __future__ import annotations

from pathlib import Path

from triagekit.files.atomic import write_text
from triagekit.training.rate_finder import RateFinding


def plot_rates(finding: RateFinding, path: Path, title: str) -> None:
    """Write an SVG: loss of each step and smoothed, over the rate on a logarithmic axis. Needs matplotlib."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.semilogx(finding.rates, finding.losses, color="#9aa5b1", linewidth=1, label="loss of each step")
    axis.semilogx(finding.rates, finding.smoothed, color="#1f5fbf", linewidth=2, label="smoothed")
    # Steps after the curve has broken out would press the rest together.
    top = max(finding.smoothed[:3]) * 1.15
    axis.set_ylim(0.9 * min(finding.losses), top)
    for rate, text, colour in (
        (finding.steepest, "steepest: cautious", "#7d8590"),
        (finding.suggested, "suggested", "#1a7f37"),
        (finding.lowest, "lowest: the upper end", "#b35900"),
    ):
        if rate is not None:
            axis.axvline(rate, color=colour, linestyle="--", linewidth=1.2, label=f"{text} ({rate:.2g})")
    axis.set(xlabel="learning rate", ylabel="loss, nats a token", title=title)
    axis.legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_text(path, buffer.getvalue())

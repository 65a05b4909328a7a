"""`triage plan CONFIG [key=value …]`: which rung of the hardware ladder fits a run, and why."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triagekit.hardware.choose import Assessment, RungAssessment
    from triagekit.hardware.devices import Device
    from triagekit.hardware.ladder import Ladder

GIBIBYTE = 2**30
NOTHING_FITS = 1

PARTS = (
    ("base weights", "weights"),
    ("quantisation", "quantisation"),
    ("adapter", "adapter"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("activations", "activations"),
    ("logits", "logits"),
    ("(or a validation batch)", "evaluation"),
    ("context", "context"),
    ("peak", "peak"),
    ("while loading", "loader_peak"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Judge every rung of the hardware ladder for a run, and say which one it would take and why not a better one.\n"
        "Needs no GPU and no torch: sizes come from the base's config.json, memory is estimated part by part.\n"
        "Without --gpus, --here or --site each rung is judged by the least that it asks for."
    )
    parser.epilog = (
        "Example: triage plan qwen2.5-1.5b_lora --gpus 2xA100-80GB\n"
        "         triage plan my.yaml base=Qwen/Qwen2.5-3B-Instruct --here\n\n"
        "Exit codes: 0 a rung was chosen, 1 none can take the run, 2 something to mend."
    )
    parser.add_argument("config", help="a YAML file, or the name of a shipped preset such as lora, hybrid, full")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpus", metavar="CARDS", help="devices of one node: 2xA100-80GB, T4, 1x12GB, cpu")
    where.add_argument("--here", action="store_true", help="the devices of this machine")
    where.add_argument("--site", help="the rungs that a cluster serves: a shipped site's name, or a file")
    parser.add_argument("--ladder", metavar="F", help="another ladder: a name in configs/hardware/, or a file")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table of all rungs, the chosen one, and why each better one was passed over."""
    from triagekit.cli.output import print_json, print_table
    from triagekit.hardware.ladder import load_ladder
    from triagekit.launching.plan import plan_run
    from triagekit.training.train import load_train_settings

    settings = load_train_settings(options.config, options.overrides)
    own = options.ladder or settings.hardware.ladder
    ladder, served = _site(options.site, own) if options.site else (load_ladder(own), None)
    assessment = plan_run(settings, _devices(options), ladder, served=served, here=options.here)
    if options.json:
        print_json({"base": settings.base, "method": settings.adapter.method, **assessment.as_dict()})
    else:
        title = f"{settings.adapter.method} on {settings.base}: estimated peak memory of one device, in GiB"
        names = [f"{row.rung.name}{' ◀' if row is assessment.chosen else ''}" for row in assessment.rows]
        print_table(title, ["", *names], _table(assessment))
        for line in _lines(assessment):
            print(line)
    return 0 if assessment.chosen is not None or assessment.wanted == "none" else NOTHING_FITS


def _devices(options: argparse.Namespace) -> tuple[Device, ...] | None:
    from triagekit.hardware.devices import cpu_device, detect_devices, parse_devices

    if options.here:
        return (*detect_devices(), cpu_device())
    return parse_devices(options.gpus) if options.gpus else None


def _site(name: str, own: str) -> tuple[Ladder, Mapping[str, str]]:
    """The ladder as the site has it, and where each of its rungs runs there."""
    from triagekit.cluster.site_rungs import site_ladder
    from triagekit.cluster.sites import load_site

    site = load_site(name)
    return site_ladder(site, own), {rung: site.place(rung).partition or "default" for rung in site.rungs}


def _table(assessment: Assessment) -> list[list[str]]:
    rows = [[label, *(_part(row, name) for row in assessment.rows)] for label, name in PARTS]
    rows.append(["one device has", *(_gibibytes(row.memory_bytes) for row in assessment.rows)])
    words = {True: "yes", False: "no", None: "?"}
    rows.append(["memory is enough", *(words[row.fits_in_memory] for row in assessment.rows)])
    rows.append(["can be taken", *(words[row.fits] for row in assessment.rows)])
    effective = assessment.rows[0].effective
    rows.append([f"batch of {effective}", *(_batch(row) for row in assessment.rows)])
    rows.append(["expected time", *(_duration(row.seconds) for row in assessment.rows)])
    return rows


def _part(row: RungAssessment, name: str) -> str:
    return _gibibytes(getattr(row.estimate, name)) if row.estimate else "?"


def _gibibytes(count: int) -> str:
    return f"{count / GIBIBYTE:.2f}" if count else "–"


def _batch(row: RungAssessment) -> str:
    return "–" if row.micro is None else f"{row.micro}×{row.accumulation}×{row.rung.world}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _lines(assessment: Assessment) -> list[str]:
    lines = ["A batch is rows at once × accumulation × devices; the product is the same on every rung."]
    if assessment.steps is not None:
        lines.append(f"{assessment.steps} optimizer steps over {assessment.train_rows} training rows, on every rung.")
    lines += [_sentence(note) for note in assessment.notes]
    chosen = assessment.chosen
    if chosen is not None:
        lines += ["", f"Chosen: {chosen.rung.name}{_of(chosen.rung.description)}", *_indented(chosen.notes)]
    elif assessment.wanted == "none":
        lines += ["", "hardware.rung is none: one process, as configured, whatever this table says."]
    else:
        lines += ["", "No rung can take this run."]
    if assessment.passed_over:
        lines += ["Passed over:", *_indented(assessment.passed_over_lines)]
    return lines


def _of(description: str) -> str:
    return f": {description}" if description else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  - {line}" for line in lines]

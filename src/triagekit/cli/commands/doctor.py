"""`triage doctor`: what this machine can do, and a fix for each problem."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.epilog = "Example: triage doctor --base Qwen/Qwen2.5-1.5B-Instruct --site slurm/sites/mine.yaml"
    parser.description = (
        "One page on this machine: Python, packages, GPUs, libraries, Slurm, folders, offline readiness. "
        "Exit code 0 when nothing is a problem, 1 otherwise."
    )
    parser.add_argument("--site", metavar="SITE", help="a site profile, by name or path: its folders are looked at too")
    parser.add_argument(
        "--base", default="embedded", help="base model that must be here: folder or hub id (default: embedded)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine and print; 1 when something is a problem."""
    from triagekit.cli.findings import print_findings
    from triagekit.cluster.doctor.examine import examine
    from triagekit.cluster.sites import load_site

    site = load_site(options.site) if options.site else None
    return print_findings("This machine", examine(options.base, site), as_json=options.json)

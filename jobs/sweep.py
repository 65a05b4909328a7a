#!/usr/bin/env python
"""Launch methods × seeds × ranks as one Slurm array with a cap, through submitit; what is finished is left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from triagekit.cluster.launcher_arguments import add_rung, launcher_parser, run_launcher
from triagekit.cluster.submitit_launch import Launched, Launcher
from triagekit.sweep.settings import load_sweep


def work(options: argparse.Namespace, words: list[str], launcher: Launcher) -> Sequence[Launched]:
    """Submit the members that are open."""
    launched = launcher.sweep(load_sweep(options.config, words))
    return [launched] if launched else []


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = launcher_parser(
        str(__doc__),
        "python jobs/sweep.py methods_by_seeds --site csf concurrency=2",
        "a sweep: YAML file or shipped name (configs/sweep/)",
    )
    add_rung(parser)
    return run_launcher(parser, work, arguments)


if __name__ == "__main__":
    sys.exit(main())

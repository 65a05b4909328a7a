#!/usr/bin/env python
"""Launch the scoring of an archive through submitit; on several nodes as one Ray cluster over them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from triagekit.cli.scoring_options import add_runs
from triagekit.cluster.launcher_arguments import launcher_parser, run_launcher
from triagekit.cluster.ray_script import load_score_settings
from triagekit.cluster.submitit_launch import Launched, Launcher


def work(options: argparse.Namespace, words: list[str], launcher: Launcher) -> Sequence[Launched]:
    """Submit the archive job."""
    settings = load_score_settings(options.config, words, options.run_folders)
    return [launcher.score(settings, options.nodes, options.run_folders)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = launcher_parser(
        str(__doc__),
        "python jobs/score.py default archive=export.parquet run=runs/lora-seed1 out=scores/2024 --site csf --nodes 2",
        "a score config: YAML file or shipped name such as default",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="nodes of the Ray cluster (default: the site's)")
    add_runs(parser)
    return run_launcher(parser, work, arguments)


if __name__ == "__main__":
    sys.exit(main())

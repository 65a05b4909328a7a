#!/usr/bin/env python
"""Launch one training run through submitit: on Slurm with a site's profile, or as a process here with --local."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from triagekit.cluster.launcher_arguments import add_rung, launcher_parser, run_launcher
from triagekit.cluster.submitit_launch import Launched, Launcher
from triagekit.training.train import load_train_settings


def work(options: argparse.Namespace, words: list[str], launcher: Launcher) -> Sequence[Launched]:
    """Submit the run."""
    return [launcher.train(load_train_settings(options.config, words, options.name))]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = launcher_parser(
        str(__doc__),
        "python jobs/train.py lora data=data/processed/mine seed=1 --site csf",
        "a train config: YAML file or shipped name such as lora",
    )
    parser.add_argument("--name", help="name of the run folder (default: <config>-seed<seed>)")
    add_rung(parser)
    return run_launcher(parser, work, arguments)


if __name__ == "__main__":
    sys.exit(main())

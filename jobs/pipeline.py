#!/usr/bin/env python
"""Launch prepare → train array → evaluate → score → compare through submitit, each stage after what it needs.

What failed stops only what depends on it, and the report says what is missing. Launched again, it goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from triagekit.cluster.launcher_arguments import add_rung, launcher_parser, run_launcher
from triagekit.cluster.pipeline import load_pipeline
from triagekit.cluster.submitit_launch import Launched, Launcher, launch_pipeline


def work(options: argparse.Namespace, words: list[str], launcher: Launcher) -> Sequence[Launched]:
    """Submit every stage that is not done."""
    return launch_pipeline(launcher, load_pipeline(options.config, words), wait)


def wait(stage: Launched) -> None:
    """Until all jobs of a stage have ended, however."""
    for handle in stage.handles:
        handle.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = launcher_parser(
        str(__doc__),
        "python jobs/pipeline.py methods --site csf prepare.source=tickets.parquet",
        "a pipeline: YAML file or shipped name (configs/pipeline/)",
    )
    add_rung(parser)
    return run_launcher(parser, work, arguments)


if __name__ == "__main__":
    sys.exit(main())

"""`triage tensorboard RUN…`: the curves of runs in the browser, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Start TensorBoard on the figures of runs. It listens on this machine alone (127.0.0.1); on a remote one the\n"
        "ssh line by which to see it is printed. Runs that are training are followed."
    )
    parser.epilog = (
        "Example: triage tensorboard                      (every run below runs/, also those that begin later)\n"
        "         triage tensorboard lora-seed0 hybrid-seed0\n\n"
        "Exit codes: 0 ended by Ctrl-C or SIGTERM, 2 something to mend."
    )
    parser.add_argument("targets", nargs="*", metavar="RUN", help="run folders, folders of runs, or names below --root")
    parser.add_argument("--root", default="runs", help="folder that holds the run folders (default: runs)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 6006, or the next free one)")
    parser.add_argument(
        "--bind-all", action="store_true", help="let other machines in, too: there is no password, so rather use ssh"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    from triagekit.launching.tensorboard_server import serve

    root = Path(options.root)
    places = [root / name if not Path(name).exists() else Path(name) for name in options.targets]
    serve(places or [root], options.port, options.bind_all, _say)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)

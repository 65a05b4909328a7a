"""Entry point of `triage`. Only the module of the command that was asked for is imported: `--help` stays instant."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from triagekit import __version__
from triagekit.cli.intermixed import IntermixedParser
from triagekit.errors import TriageError, nearest

# name → (module below triagekit.cli.commands, one line of help). The order is the order of the work.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "the whole way on generated tickets, in minutes on a CPU"),
    "schema": ("schema", "show, check, draft a ticket schema; print its JSON Schema or prompt"),
    "data": ("data", "prepare, inspect, generate, verify a data set"),
    "base": ("base", "build or check the embedded base model"),
    "plan": ("plan", "which rung of the hardware ladder fits a run, and why"),
    "train": ("train", "fine-tune an adapter: one run, one folder"),
    "sweep": ("sweep", "several runs on this machine, learning rates chosen on val, one report"),
    "runs": ("runs", "list, show, remove runs"),
    "tensorboard": ("tensorboard", "curves of one or more runs in the browser"),
    "evaluate": ("evaluate", "measure a run on a split, per field, with intervals"),
    "baseline": ("baseline", "majority class and TF-IDF + linear model on the same split"),
    "predict": ("predict", "one or a few tickets to records"),
    "score": ("score", "a whole archive to records, with Ray"),
    "serve": ("serve", "records over HTTP, from the same decoder"),
    "export": ("export", "a run merged, as PEFT adapter, as one archive, as GGUF, or to a hub"),
    "compare": ("compare", "an HTML report on several runs, with paired tests"),
    "submit": ("submit", "train, sweep, evaluate, score or a whole pipeline as Slurm jobs"),
    "site": ("site", "list, show and check the profiles of clusters"),
    "jobs": ("jobs", "a live table of Slurm jobs and their runs; logs, cancel"),
    "doctor": ("doctor", "what this machine can do, and a fix for each problem"),
}

USER_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 the check it made failed, 2 the user can mend it, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    share_the_machine()
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS and words[0] == command:
        match = nearest(command, COMMANDS)
        hint = f" Did you mean 'triage {match}'?" if match else f" Commands: {', '.join(COMMANDS)}."
        print(f"triage: no command '{command}'.{hint}", file=sys.stderr)
        return USER_ERROR
    parser = _parser(command if words and words[0] == command else None)
    options = parser.parse_args(words)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    if options.offline:
        go_offline()
    try:
        return int(options.run(options))
    except TriageError as error:
        if os.environ.get("TRIAGEKIT_TRACEBACK"):
            raise
        print(f"triage: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        # The reader (`head`, a pager) went away; Python's own flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("triage: interrupted; the same command goes on from what is on disk.", file=sys.stderr)
        return INTERRUPTED


def share_the_machine() -> None:
    """Let waiting threads sleep; must come before the numerical libraries are imported.

    With another process on the cores, OpenMP threads that wait by spinning make training several times slower; on an
    idle machine sleeping costs next to nothing. What the user has set stays.
    """
    for name, value in {
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


def go_offline() -> None:
    """Tell the libraries never to look at a hub (before they are imported), and our own code to open no remote file."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "TRIAGEKIT_OFFLINE"):
        os.environ[name] = "1"


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="triage",
        description="Support tickets to strict, schema-valid records with small fine-tuned language models.",
        epilog="Example: triage demo    (every command has --help with an example)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"triagekit {__version__}")
    parser.set_defaults(offline=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=IntermixedParser)
    for name, (module_name, summary) in COMMANDS.items():
        own = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == command:
            module = importlib.import_module(f"triagekit.cli.commands.{module_name}")
            module.configure(own)
            add_offline(own)
    return parser


def add_offline(parser: argparse.ArgumentParser) -> None:
    """Every command takes --offline, on its own level and on that of its sub-commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in {id(choice): choice for choice in action.choices.values()}.values():
                add_offline(inner)
            return
    parser.add_argument(
        "--offline", action="store_true", default=False, help="never look at a hub or any other network place"
    )


if __name__ == "__main__":
    sys.exit(main())

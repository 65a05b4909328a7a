"""`triage demo`: the whole way on generated tickets, each step a command that a person could type."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from triagekit.errors import TriageError

METHODS = ("lora", "hybrid")
ROWS = 800
# Short enough for five minutes on two CPU cores, and the same for every run; the presets themselves train longer.
BUDGET = ("epochs=1", "evaluation.every_share=0.5")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triage demo`."""
    parser.description = (
        "Generate tickets, prepare them, fine-tune LoRA and hybrid under identical conditions with several seeds,\n"
        "evaluate, score an archive with Ray, and compare. Needs no GPU, hub or network. Every step is an ordinary\n"
        "command, printed before it runs. Started again, it goes on from what is on disk."
    )
    parser.epilog = "Example: triage demo --out demo"
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything it makes (default: demo)")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"labelled tickets to generate (default: {ROWS})")
    parser.add_argument("--archive-rows", type=int, default=600, help="tickets in the scored archive (default: 600)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per method (default: 2)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run every step; the first that fails ends the demo with its exit code."""
    began = time.monotonic()
    commands = steps(options.out, options.rows, options.archive_rows, options.seeds)
    for number, words in enumerate(commands, start=1):
        print(f"\n[{number}/{len(commands)}] triage {shlex.join(words)}", flush=True)
        step_began = time.monotonic()
        _run_step([*words, "--offline"])
        print(f"({time.monotonic() - step_began:.0f} s)", flush=True)
    print(f"\nDone in {time.monotonic() - began:.0f} s. Report: {(options.out / 'report.html').resolve()}")
    return 0


def steps(out: Path, rows: int, archive_rows: int, seeds: int) -> list[list[str]]:
    """The words of every command, in order."""
    tickets, archive, data = out / "tickets.jsonl", out / "archive.jsonl", out / "data"
    runs = {(method, seed): out / "runs" / f"{method}-seed{seed}" for method in METHODS for seed in range(1, seeds + 1)}
    everything = [str(folder) for folder in runs.values()]
    return [
        ["data", "generate", "--rows", str(rows), "--seed", "1", "--out", str(tickets)],
        ["data", "prepare", "it_tickets", "--source", str(tickets), "--out", str(data)],
        ["baseline", str(data)],
        *(
            ["train", method, f"data={data}", f"output={out / 'runs'}", f"seed={seed}", *BUDGET, "--name", folder.name]
            for (method, seed), folder in runs.items()
        ),
        ["evaluate", *everything, "--split", "test", "--free-sample", "40"],
        ["data", "generate", "--rows", str(archive_rows), "--seed", "2", "--out", str(archive)],
        ["score", str(archive), "--run", everything[-1], "--out", str(out / "scores"), "--shard-rows", "150"],
        ["compare", *everything, "--out", str(out / "report.html")],
    ]


def _run_step(words: list[str]) -> None:
    # A process of its own for each step: peak memory of one run must not show up in the figures of the next.
    done = subprocess.run([sys.executable, "-m", "triagekit.cli.main", *words], check=False)
    if done.returncode != 0:
        raise TriageError(
            f"The step 'triage {shlex.join(words)}' ended with exit code {done.returncode}. "
            "Mend what it says, then run the demo again: finished steps are not repeated."
        )

"""What a scoring job's script runs around its work, so that what is cut off goes on with the shards that are missing.

    successor="$(python -m triagekit.cluster.score_attempt begin [--successor SCRIPT])"
    code=0
    srun … || code=$?
    exec python -m triagekit.cluster.score_attempt end --code "$code" --max-restarts N [--successor "$successor"]

The parts in the output folder are all the state there is, so nothing is recorded: a stop (128 + USR2, TERM) puts the
job back into the queue, anything else ends it with its own code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from triagekit.cluster.attempts.own_job import OwnJob
from triagekit.errors import TriageError

STOPPED = (128 + signal.SIGUSR2, 128 + signal.SIGTERM)


def begin(script: Path | None, environment: Mapping[str, str]) -> str:
    """Where the site forbids requeueing, queue the successor before the work; its job id, else ''."""
    if script is None:
        return ""
    job = OwnJob.from_environment(environment)
    try:
        return job.queue_successor(script, environment.get("TRIAGEKIT_CHAIN") or job.job)
    except TriageError as error:
        _say(f"{error} This job works on without a successor: if it is cut off, submit {script} again.")
        return ""


def end(code: int, max_restarts: int, successor: str, environment: Mapping[str, str]) -> int:
    """See to it that a stopped job goes on; the exit code for the job."""
    # Requeueing sends SIGTERM to every process of the job, this one included.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job = OwnJob.from_environment(environment)
    stopped = code in STOPPED
    if not stopped:
        if successor:
            job.cancel(successor)
        return code
    if successor:
        _say(f"stopped with exit code {code}; goes on in job {successor}.")
        return code
    if job.restart >= max_restarts:
        _say(f"stopped with exit code {code} after {job.restart} restarts: not requeued. Submit it again to go on.")
        return code
    if job.requeue():
        _say(f"stopped with exit code {code}: requeued, the next start scores what is missing.")
    else:
        _say(f"stopped with exit code {code} by being cancelled: not requeued. Submit it again to go on.")
    return code


def _say(text: str) -> None:
    print(f"triagekit: {text}", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """The two commands."""
    parser = argparse.ArgumentParser(prog="python -m triagekit.cluster.score_attempt", description="For job scripts.")
    commands = parser.add_subparsers(dest="command", required=True)
    begins = commands.add_parser("begin", help="before the work")
    begins.add_argument("--successor", type=Path, metavar="SCRIPT", help="this site forbids requeueing: queue SCRIPT")
    ends = commands.add_parser("end", help="after the work")
    ends.add_argument("--code", type=int, required=True, help="exit code of the work")
    ends.add_argument("--max-restarts", type=int, default=20, help="how often the job may be requeued (default: 20)")
    ends.add_argument("--successor", default="", metavar="JOB", help="what `begin` printed")
    options = parser.parse_args(words)
    try:
        if options.command == "begin":
            print(begin(options.successor, os.environ))
            return 0
        return end(options.code, options.max_restarts, options.successor, os.environ)
    except TriageError as error:
        _say(str(error))
        return options.code if options.command == "end" and options.code else 1


if __name__ == "__main__":
    sys.exit(main())

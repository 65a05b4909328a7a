"""What a job's script runs before and after its work, so that the work survives time limits, preemption and crashes.

    begin=0
    python -m triagekit.cluster.attempt begin --run RUN [--successor --script FILE] [--max-restarts N]
                                              [--max-walltime TIME] || begin=$?
    if [ "$begin" -eq 10 ]; then exit 0; fi        # nothing to do: the run is finished, or its chain was cancelled
    if [ "$begin" -ne 0 ]; then exit "$begin"; fi
    trap : TERM                                    # let what follows be reached when Slurm ends the job
    code=0
    srun … || code=$?
    exec python -m triagekit.cluster.attempt end --run RUN --code "$code"

`begin` exits with 0: go on; 10: nothing to do; else: stop with this code. `end` exits with the code the job is to have:
0 only for a finished run. The exit code of the work and the run's own marker are what it judges by:

    0                          finished (with the marker), else failed
    128 + USR2, USR1, TERM, INT stopped with a checkpoint: goes on in this job requeued, or in the successor
    2                          user error: failed at once
    anything else              failed, never repeated

Standard library only, so that it starts in a fraction of a second on a node that is being taken away.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from triagekit.cluster.attempts.limits import why_no_more
from triagekit.cluster.attempts.outcome import close_open_attempts, judge
from triagekit.cluster.attempts.own_job import OwnJob
from triagekit.cluster.attempts.record import Attempt, newest_step, read_attempts, write_attempts
from triagekit.cluster.durations import parse_duration
from triagekit.errors import TriageError
from triagekit.training.run_folder import RunFolder

__all__ = ["NOTHING_TO_DO", "Attempt", "begin", "end", "main", "read_attempts"]

NOTHING_TO_DO = 10


def begin(
    run: Path,
    environment: Mapping[str, str],
    script: Path | None = None,
    max_restarts: int | None = None,
    max_walltime: float | None = None,
) -> int:
    """Open an attempt; with `script`, its successor is queued before the work. 0 or NOTHING_TO_DO.

    Raises TriageError when the run may not go on: limits used up, or the attempt before it failed.
    """
    job = OwnJob.from_environment(environment)
    chain = environment.get("TRIAGEKIT_CHAIN") or job.job
    attempts = close_open_attempts(run, read_attempts(run), job)
    write_attempts(run, attempts)
    if RunFolder(run).is_finished:
        _say(f"{run} is finished: nothing to do.")
        return NOTHING_TO_DO
    before = [attempt for attempt in attempts if attempt.chain == chain]
    if before and before[-1].job != job.job:
        if before[-1].state == "cancelled":
            _say(f"job {before[-1].job} was cancelled, so its successor does nothing.")
            return NOTHING_TO_DO
        if before[-1].state == "failed":
            raise TriageError(f"Job {before[-1].job} failed ({before[-1].message}); it is not tried again.")
    enough = why_no_more(before, max_restarts, max_walltime)
    if enough is not None:
        raise TriageError(f"{run} does not go on: {enough}. To go on all the same, submit it anew.")
    successor = None
    if script is not None:
        is_last = max_restarts is not None and len(before) >= max_restarts
        successor = _successor(job, chain, script, is_last)
    attempt = Attempt(
        name=job.name,
        job=job.job,
        restart=job.restart,
        chain=chain,
        nodes=job.nodes,
        resume="requeue" if script is None else "successor",
        state="running",
        started=time.time(),
        step_before=newest_step(run),
        successor=successor,
        max_restarts=max_restarts,
        max_walltime=max_walltime,
    )
    write_attempts(run, [*attempts, attempt])
    # srun, which comes next, gives up at once where the controller does not answer: so wait here until it does.
    job.record()
    queued = f", successor {successor} queued" if successor else ""
    _say(f"attempt {len(before) + 1} ({job.name}) on {job.nodes}, from step {attempt.step_before}{queued}")
    return 0


def end(run: Path, code: int, environment: Mapping[str, str]) -> int:
    """Close the attempt and see to it that the run goes on if it should. The exit code for the job."""
    # From here on a SIGTERM is the echo of our own requeue, or of a preemption that we are told of anyway.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job = OwnJob.from_environment(environment)
    attempts = read_attempts(run)
    if not attempts or attempts[-1].name != job.name:
        raise TriageError(f"{run} has no attempt {job.name} that could end. Its script must run `attempt begin` first.")
    opened = attempts[-1]
    outcome = judge(code, RunFolder(run).is_finished, job)
    closed = dataclasses.replace(
        opened,
        state=outcome.state,
        code=outcome.code,
        ended=time.time(),
        step_after=newest_step(run),
        message=outcome.message,
    )
    before = [attempt for attempt in attempts[:-1] if attempt.chain == opened.chain]
    enough = why_no_more([*before, closed], opened.max_restarts, opened.max_walltime) if outcome.goes_on else None
    if enough is not None:
        closed = dataclasses.replace(closed, message=f"{closed.message}; not continued: {enough}")
    goes_on = outcome.goes_on and enough is None
    # Written before Slurm is asked for anything: what follows may be the last thing this process does.
    write_attempts(run, [*attempts[:-1], closed])
    if opened.successor and not goes_on:
        job.cancel(opened.successor)
    by_itself = goes_on and not outcome.requeued_by_slurm and opened.successor is None
    way = "" if not goes_on else f"; goes on in job {opened.successor}" if opened.successor else "; requeued"
    _say(f"{closed.state} after step {closed.step_after}: {closed.message}{way}")
    if by_itself and not job.requeue():
        closed = dataclasses.replace(closed, state="cancelled", message="the job was cancelled")
        write_attempts(run, [*attempts[:-1], closed])
        _say("cancelled meanwhile: not requeued")
    return outcome.code


def _successor(job: OwnJob, chain: str, script: Path, is_last: bool) -> str | None:
    """The queued successor's job id; None where none is to be or can be."""
    if is_last:
        _say("this is the last attempt allowed (max_restarts): no successor is queued.")
        return None
    try:
        return job.queue_successor(script, chain)
    except TriageError as error:
        _say(f"{error} This attempt works on without one: if it is cut off, submit {script} again.")
        return None


def _say(text: str) -> None:
    print(f"triagekit: {text}", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """The two commands. Exit codes: see the module's description."""
    parser = argparse.ArgumentParser(prog="python -m triagekit.cluster.attempt", description="For job scripts.")
    commands = parser.add_subparsers(dest="command", required=True)
    begins = commands.add_parser("begin", help="before the work")
    begins.add_argument("--run", type=Path, required=True, help="run folder")
    begins.add_argument("--successor", action="store_true", help="this site forbids requeueing: queue a successor")
    begins.add_argument("--script", type=Path, help="with --successor: the script to submit again")
    begins.add_argument("--max-restarts", type=int, help="how often the work may be taken up again")
    begins.add_argument("--max-walltime", help="total time of all attempts, as Slurm writes times")
    ends = commands.add_parser("end", help="after the work")
    ends.add_argument("--run", type=Path, required=True, help="run folder")
    ends.add_argument("--code", type=int, required=True, help="exit code of the work")
    arguments = parser.parse_args(words)
    try:
        if arguments.command == "end":
            return end(arguments.run, arguments.code, os.environ)
        if arguments.successor != (arguments.script is not None):
            parser.error("--successor and --script FILE go together")
        try:
            walltime = None if arguments.max_walltime is None else float(parse_duration(arguments.max_walltime))
        except ValueError as error:
            parser.error(f"--max-walltime: {error}")
        return begin(arguments.run, os.environ, arguments.script, arguments.max_restarts, walltime)
    except TriageError as error:
        _say(str(error))
        # The work's own code, if it has one, tells more than ours.
        return arguments.code if arguments.command == "end" and arguments.code != 0 else 1


if __name__ == "__main__":
    sys.exit(main())

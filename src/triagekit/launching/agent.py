"""`python -m triagekit.launching.agent WORDS…`: `accelerate launch WORDS…`, told to leave signals to the launcher and
to be brief. It stands between the launcher and the ranks of one node."""

from __future__ import annotations

import logging
import os
import sys

from triagekit.launching.processes import LAUNCHER_PID, end_with_parent
from triagekit.launching.reports import REPORTS, write_agent_report

AGENT_PID = "TRIAGEKIT_AGENT_PID"
SHUTDOWN_SECONDS = 20


def main(words: list[str]) -> int:
    """Start the ranks of this node and wait for them. 0: all ended well; 1: not, and why is in their reports."""
    launcher = os.environ.get(LAUNCHER_PID)
    end_with_parent(int(launcher) if launcher else None)
    os.environ[AGENT_PID] = str(os.getpid())
    # torch's agent answers SIGTERM by killing ranks half a minute later; stopping them is the launcher's part.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    # How long the other ranks get to end after one has failed.
    os.environ["PET_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_SECONDS)
    # What went wrong in a rank is told once, by the launcher, in the rank's own words.
    logging.disable(logging.ERROR)
    from accelerate.commands.launch import main as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    sys.argv = ["accelerate-launch", *words]
    try:
        accelerate_launch()
    except ChildFailedError as error:
        if REPORTS in os.environ:
            # Those that fail later were ended by the agent itself, when their patience was over.
            first = min(failure.timestamp for failure in error.failures.values())
            codes = {
                rank: one.exitcode
                for rank, one in error.failures.items()
                if one.timestamp < first + SHUTDOWN_SECONDS / 2
            }
            write_agent_report(codes)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

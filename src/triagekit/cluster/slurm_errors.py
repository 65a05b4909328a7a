"""Slurm's refusals in Slurm's own words, each with what to do about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from triagekit.errors import TriageError, did_you_mean

_AWAY = (
    "unable to contact slurm controller",
    "socket timed out on send/recv",
    "zero bytes were transmitted",
    "connection refused",
    "slurm backup controller in standby mode",
    "temporarily unable to accept job",
    "resource temporarily unavailable",
    "transport endpoint is not connected",
    "communication connection failure",
    "message receive failure",
    "message send failure",
)
# Of these, the request may already have been read by the controller.
_PERHAPS_TAKEN = ("socket timed out on send/recv", "zero bytes were transmitted", "message receive failure")

# (pattern in Slurm's message, what to do)
_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"socket timed out|zero bytes were transmitted|message receive failure",
        "The controller did not answer in time. What was asked may have been done all the same: look at `squeue --me` "
        "before you try again.",
    ),
    (
        r"unable to contact slurm controller|connection refused|communication connection failure",
        "The controller did not answer for a while. It may be restarting: try again in some minutes; `scontrol ping` "
        "tells. Nothing was submitted.",
    ),
    (
        r"invalid account",
        "Set the account of the site: `site.account=NAME` on the command line, or `account:` in its file. Yours: "
        "sacctmgr show assoc user=$USER format=account,partition,qos",
    ),
    (
        r"invalid qos",
        "Set the place's `qos` in the site's file. Yours: sacctmgr show assoc user=$USER format=account,qos",
    ),
    (
        r"requested node configuration is not available",
        "No node of the partition has this many GPUs, cores or this much memory, or all that have are down. Compare with "
        "`sinfo -o '%P %G %c %m %T'` and mend gres, cpus_per_task, memory in the site's file; `triage site check` finds it",
    ),
    (r"invalid generic resource|invalid gres", "Compare gres in the site's file with `sinfo -o '%P %G'`."),
    (r"invalid feature", "Compare constraint in the site's file with `sinfo -o '%P %f'`."),
    (
        r"time limit is invalid|requested time limit",
        "The partition allows less time: compare time_limit in the site's file with `sinfo -o '%P %l'`.",
    ),
    (
        r"required partition not available",
        "The partition is drained or switched off for now. Another rung can be asked for with --rung.",
    ),
    (
        r"accounting/qos policy|job submit limit|qosmax|assocmax|maxsubmit",
        "A limit of your account or QOS is reached: wait until some jobs end (`triage jobs`), or ask for less.",
    ),
    (
        r"memory specification can ?not be satisfied|memory required by task",
        "Compare memory in the site's file with `sinfo -o '%P %m'` (MB).",
    ),
    (r"more processors requested than permitted", "Lower cpus_per_task in the site's file (`sinfo -o '%P %c'`)."),
    (
        r"access/permission denied|user's group not permitted|group not permitted|not permitted to use this partition",
        "You may not use this partition: see `scontrol show partition`, ask the cluster's team, or take another rung.",
    ),
    (
        r"accounting storage is disabled",
        "This cluster keeps no accounting; only jobs that Slurm still remembers are known.",
    ),
    (r"invalid job id", "The job is gone from Slurm's memory, or the id is mistyped. See `triage jobs`."),
    (r"unable to open file|no such file", "Look at the path of the script and at --chdir: both must exist here."),
    (r"invalid --time", "Write the time as 90m, 4h, or 1-12:00:00."),
    (
        r"invalid dependency|dependency problem",
        "The job that is to come first is unknown to Slurm: it may have ended too long ago.",
    ),
    (
        r"could not establish a configuration source|fetch_config|slurm\.conf",
        "Slurm is installed here but not set up: run this on a login node, or set SLURM_CONF.",
    ),
    (r"munge|authentication|credential", "This machine's key does not match the cluster's: run this on a login node."),
)


class SlurmError(TriageError):
    """A Slurm command that failed. `message` is what Slurm said, `words` the command, `returncode` its exit status."""

    def __init__(self, words: Sequence[str], returncode: int, message: str, fix: str = "") -> None:
        self.words, self.returncode, self.message = tuple(words), returncode, message
        shown = shlex.join(word.replace("\x1f", "|") for word in words[:12])
        said = message or f"no message, exit status {returncode}"
        super().__init__(
            f"Slurm refused `{shown}`:\n    " + said.replace("\n", "\n    ") + (f"\n  {fix}" if fix else "")
        )


def is_controller_away(message: str) -> bool:
    """Whether the same command may well work in a moment."""
    return any(words in message.lower() for words in _AWAY)


def may_have_been_taken(message: str) -> bool:
    """Whether a submission that failed like this may be in the queue nevertheless."""
    return any(words in message.lower() for words in _PERHAPS_TAKEN)


def advice(message: str, partitions: Callable[[], list[str]]) -> str:
    """What to do about Slurm's `message`; `partitions` gives the live ones and is only called for a wrong partition."""
    wrong = re.search(r"invalid partition(?: name)? specified:? *(\S+)?", message, flags=re.IGNORECASE)
    if wrong:
        live = partitions()
        hint = did_you_mean(wrong[1] or "", live) if live else "See `sinfo -s`."
        return f"{hint} Mend the partition of the rung in the site's file; `triage site check` finds all of them."
    return next((fix for pattern, fix in _ADVICE if re.search(pattern, message, flags=re.IGNORECASE)), "")

"""When a chain of attempts has had enough: restarts, total time, or no progress."""

from __future__ import annotations

from collections.abc import Sequence

from triagekit.cluster.attempts.record import Attempt

# So many attempts in a row that ran into their time limit or died with their node, and got no further.
FRUITLESS_ATTEMPTS = 3


def why_no_more(chain: Sequence[Attempt], max_restarts: int | None, max_walltime: float | None) -> str | None:
    """Why no further attempt is made after these, oldest first; None if another one may be."""
    if max_restarts is not None and len(chain) > max_restarts:
        return f"all {max_restarts} restarts are used up (max_restarts)"
    used = sum(attempt.seconds for attempt in chain)
    if max_walltime is not None and used >= max_walltime:
        return f"{used / 3600:.2f} of {max_walltime / 3600:.2f} h are used up (max_walltime)"
    last = chain[-FRUITLESS_ATTEMPTS:]
    if len(last) == FRUITLESS_ATTEMPTS and all(
        attempt.state in {"timeout", "lost"} and not attempt.made_progress for attempt in last
    ):
        return (
            f"{FRUITLESS_ATTEMPTS} attempts in a row made no checkpoint "
            f"({', '.join(attempt.state for attempt in last)}): give more time, or checkpoint more often"
        )
    return None

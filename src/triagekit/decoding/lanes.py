"""Several batches of one decoder side by side on the cores of a CPU, one after the other on anything else.

A pass over a small model is hundreds of short operations. Cut into pieces, each of them waits for its slowest core; two
passes at once, on a core each, wait for nothing. Operations leave Python's lock while they run, so threads are enough, and
the weights are there once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import nn

from triagekit.modeling.forward import causal_model

Row = TypeVar("Row")

MOST = 4
"""Lanes. What Python does between operations is done under its lock: more lanes would wait for that. Further threads go
to the lanes, several each."""
ROWS_OF_A_LANE = 32
"""At least; with fewer, the cores do more on one batch together."""


def lane_count(model: nn.Module, rows: int) -> int:
    """How many batches of `rows` rows in all are decoded at once."""
    causal: Any = causal_model(model)
    if causal.get_input_embeddings().weight.device.type != "cpu" or _changes_in_a_pass(causal):
        return 1
    return max(1, min(torch.get_num_threads(), MOST, rows // ROWS_OF_A_LANE))


def run_lanes(work: Callable[[Sequence[Row], threading.Event], None], rows: Sequence[Row], lanes: int) -> None:
    """Call `work` with every lane's rows, dealt out in turn, so that who stands where does not depend on the clock.

    `work` is to return soon after the event is set: another lane has failed, or the caller was interrupted. Raises what
    the first lane that failed has raised.
    """
    stop = threading.Event()
    if lanes == 1:
        work(rows, stop)
        return
    threads = torch.get_num_threads()
    # The number of threads is one per thread that uses them; setting it in a lane leaves this thread's as it was.
    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(max(1, threads // lanes),)) as pool:
        try:
            futures = [pool.submit(work, rows[lane::lanes], stop) for lane in range(lanes)]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done():
                    future.result()
        except BaseException:
            stop.set()
            raise
        finally:
            # But threads that are started later would begin with that of the lanes.
            torch.set_num_threads(threads)


def _changes_in_a_pass(causal: Any) -> bool:
    """Whether a forward pass changes the model: rotary embeddings that depend on the longest sequence seen do."""
    kinds = [str(getattr(module, "rope_type", "")) for module in causal.modules()]
    return any("dynamic" in kind or kind == "longrope" for kind in kinds)

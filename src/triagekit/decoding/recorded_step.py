"""A step that is always the same work on the same tensors: recorded once as a CUDA graph, and repeated without Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Protocol

import torch

CUDA_GRAPHS = "TRIAGEKIT_CUDA_GRAPHS"
"""`off` in this variable launches every kernel by itself."""
_BEFORE_RECORDING = 2
"""Steps that are run as they are first: libraries reserve memory and choose kernels in them, which no graph may do."""

Step = Callable[[], None]
log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Makes of a step something that repeats it on the same tensors."""

    def __call__(self, step: Step) -> Step:
        """Record `step`, which is not run by that. Raises RuntimeError where something in it cannot be recorded."""


def recorder_for(device: torch.device) -> Recorder | None:
    """CUDA graphs on CUDA devices; None elsewhere, and where the variable says so."""
    return CudaRecorder() if device.type == "cuda" and os.environ.get(CUDA_GRAPHS) != "off" else None


class CudaRecorder:
    """Records CUDA graphs, all in one pool of memory: they never run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        """See Recorder."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        return graph.replay


class RecordedStep:
    """Calls a step: the first times as it is, then by its recording."""

    def __init__(self, step: Step, recorder: Recorder | None) -> None:
        self._step = step
        self._recorder = recorder
        self._runs = 0

    def __call__(self) -> None:
        """Do the step once."""
        if self._recorder is not None:
            if self._runs == _BEFORE_RECORDING:
                self._record(self._recorder)
            self._runs += 1
        self._step()

    def _record(self, recorder: Recorder) -> None:
        try:
            self._step = recorder(self._step)
        except RuntimeError as error:
            log.warning(
                "The model's kernels cannot be recorded as a CUDA graph, so each is launched by itself: %s", error
            )

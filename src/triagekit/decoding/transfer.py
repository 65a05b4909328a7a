"""Numbers between the host and the decoder's device, without waiting for what the device is doing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Numbers = Sequence[int] | np.ndarray
"""Whole numbers that the host knows."""


def on_device(numbers: Numbers, device: torch.device) -> torch.Tensor:
    """int64, of any shape. `torch.tensor(…, device=…)` would wait until a GPU has done all that was asked of it before."""
    return torch.from_numpy(np.asarray(numbers, dtype=np.int64)).to(device, non_blocking=True)


class HostCopy:
    """The numbers of a tensor as they are now, for the host to read later."""

    def __init__(self, numbers: torch.Tensor) -> None:
        """`numbers` integers, of any shape; they may change afterwards."""
        self._event: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._copy = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._copy.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._copy = numbers.to("cpu", copy=True)

    def numbers(self) -> np.ndarray:
        """Of the tensor's shape. Waits only where the device has not come so far yet."""
        if self._event is not None:
            self._event.synchronize()
        found: np.ndarray = self._copy.numpy()
        return found

"""Numbers from the host to the decoder's device, without waiting for what the device is doing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def on_device(numbers: Sequence[int] | np.ndarray, device: torch.device) -> torch.Tensor:
    """int64, of any shape. `torch.tensor(…, device=…)` would wait until a GPU has done all that was asked of it before."""
    return torch.from_numpy(np.asarray(numbers, dtype=np.int64)).to(device, non_blocking=True)

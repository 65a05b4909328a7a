"""The machine's matrix-product rates, on as many threads as OMP_NUM_THREADS says: one line of JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from training_vs_trl import matrix_rate


def int8_rate(size: int = 2048) -> float:
    """Operations a second of a large int8 matrix product summed in int32; the best of several."""
    one, other = (torch.randint(-127, 127, (size, size), dtype=torch.int8) for _ in range(2))
    best = 0.0
    for _ in range(8):
        began = time.perf_counter()
        torch._int_mm(one, other)
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    print(json.dumps({"fp32": matrix_rate(), "int8": int8_rate()}))

"""What a machine can do at most: operations a second of one large matrix product, by number type.

Called by itself (`python benchmarks/matrix_rate.py cpu|cuda`) it prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

THREADS = 2
"""Of every process that is measured on a CPU."""
_TIMES = 8


def matrix_rate(device: str = "cpu") -> float:
    """In the number type that models compute in: float32 on a CPU, by whichever of torch's libraries (MKL, oneDNN) is faster
    on this machine; bfloat16 on a GPU."""
    import torch

    from triagekit.modeling.packed_linear import packed_product

    if device != "cpu":
        size = 8192
        one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        return _best(lambda: one @ other, size)
    size = 2048
    one, other = torch.randn(size, size), torch.randn(size, size)
    packed = packed_product(other)
    return max(_best(lambda: one @ other, size), _best(lambda: packed(one), size) if packed else 0.0)


def int8_rate(device: str = "cpu") -> float:
    """Of int8 summed in int32."""
    import torch

    size = 2048 if device == "cpu" else 8192
    one, other = (torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device) for _ in range(2))
    return _best(lambda: torch._int_mm(one, other.t()), size)


def _best(product: Callable[[], Any], size: int) -> float:
    import torch

    best = 0.0
    for _ in range(_TIMES):
        began = time.perf_counter()
        if product().device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    place = sys.argv[1]
    print(json.dumps({"fp32" if place == "cpu" else "bf16": matrix_rate(place), "int8": int8_rate(place)}))

"""Matrix products of many rows, a block of them at a time.

What lies between two products then stays in the cache. And oneDNN makes a kernel for each number of rows that it meets, in a
third of a millisecond and of some 300 KiB, and keeps about a thousand: blocks of one size leave it few numbers to meet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

ROWS = 256
"""In a block; the last one holds what is left."""


def in_row_blocks(function: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """`function` of `states` [..., K], which lie in one piece, row by row the same → [..., N]."""
    rows = states.view(-1, states.shape[-1])
    if len(rows) <= ROWS:
        return function(states)
    results = torch.cat([function(block) for block in torch.split(rows, ROWS)])
    return results.view(*states.shape[:-1], results.shape[-1])

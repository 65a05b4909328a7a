"""Linear layers in 8-bit integers: what stands around their whole-number product, as two walks: pointwise.cpp."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import torch

from triagekit.modeling.int8_linear import SMALLEST_SCALE, Int8Linear
from triagekit.modeling.row_blocks import ROWS


class _Latest(threading.local):
    """The input that this thread has quantised last: several layers read the same one, one after the other."""

    states: torch.Tensor | None = None
    codes: torch.Tensor
    scales: torch.Tensor


def declare(kernels: ctypes.CDLL) -> None:
    """Types of the two loops."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kernels.quantise_rows.argtypes = [pointer] * 3 + [number] * 2 + [ctypes.c_float]
    kernels.quantise_rows.restype = None
    kernels.scale_products.argtypes = [pointer] * 4 + [number] * 2
    kernels.scale_products.restype = None


_latest = _Latest()


def with_fused_scales(layer: Int8Linear, kernels: ctypes.CDLL) -> Callable[..., Any]:
    """A forward in place of the layer's own, on float32 that lies in one piece."""
    own, weight, columns = layer.forward, layer.weight.t(), layer.scale.contiguous()
    bias = None if layer.bias is None else layer.bias.data_ptr()

    def forward(states: torch.Tensor) -> torch.Tensor:
        if states.dtype != torch.float32 or not states.is_contiguous():
            return own(states)
        codes, scales = _quantised(states, kernels)
        products = torch.empty(len(codes), layer.out_features, dtype=torch.int32)
        for block, result in zip(torch.split(codes, ROWS), torch.split(products, ROWS), strict=True):
            torch._int_mm(block, weight, out=result)
        kernels.scale_products(products.data_ptr(), scales.data_ptr(), columns.data_ptr(), bias, *products.shape)
        return products.view(torch.float32).view(*states.shape[:-1], layer.out_features)

    return forward


def _quantised(states: torch.Tensor, kernels: ctypes.CDLL) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [rows, K] and scales [rows]."""
    if _latest.states is not states:
        width = states.shape[-1]
        rows = states.numel() // width
        codes, scales = torch.empty(rows, width, dtype=torch.int8), torch.empty(rows)
        kernels.quantise_rows(states.data_ptr(), codes.data_ptr(), scales.data_ptr(), rows, width, SMALLEST_SCALE)
        # Kept as long as its codes are: another tensor might come to lie where it was.
        _latest.states, _latest.codes, _latest.scales = states, codes, scales
    return _latest.codes, _latest.scales

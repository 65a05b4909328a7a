"""Rotary position embeddings as one walk over queries or keys: rotate_halves in pointwise.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

ROTATE = "apply_rotary_pos_emb"
"""What transformers' model files call their function."""
Rotate = Callable[..., tuple[torch.Tensor, torch.Tensor]]
_TOLERANCE = 1e-5
_found: dict[Rotate, bool] = {}


def with_fused_rotary(module: nn.Module, kernels: ctypes.CDLL) -> Callable[..., Any] | None:
    """The module's own forward, but for the function that turns queries and keys; None where it calls none that is known.

    The function is replaced in what this one forward sees, so that neither the library nor other models notice.
    """
    own = type(module).forward
    if not isinstance(own, FunctionType) or ROTATE not in own.__code__.co_names:
        return None
    rotate = own.__globals__.get(ROTATE)
    if not callable(rotate) or not _turns_halves(rotate):
        return None
    seen = {**own.__globals__, ROTATE: _fused(rotate, kernels)}
    forward = FunctionType(own.__code__, seen, own.__name__, own.__defaults__, own.__closure__)
    forward.__kwdefaults__ = own.__kwdefaults__
    return MethodType(forward, module)


def _turns_halves(rotate: Rotate) -> bool:
    """Whether a function does what the kernel does: found out once, on random numbers."""
    if rotate not in _found:
        generator = torch.Generator().manual_seed(0)
        query, key, cosine, sine = (
            torch.randn(shape, generator=generator) for shape in ((1, 4, 3, 8), (1, 2, 3, 8), (1, 3, 8), (1, 3, 8))
        )
        try:
            turned = rotate(query, key, cosine, sine)
        except (TypeError, ValueError, RuntimeError, IndexError):
            _found[rotate] = False  # it takes other arguments
        else:
            pairs = zip(turned, (query, key), strict=True)
            _found[rotate] = all(
                torch.allclose(each, _turned(given, cosine, sine), rtol=_TOLERANCE, atol=_TOLERANCE)
                for each, given in pairs
            )
    return _found[rotate]


def _turned(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    left, right = heads.chunk(2, dim=-1)
    return heads * cosine[:, None] + torch.cat((-right, left), dim=-1) * sine[:, None]


def _fused(rotate: Rotate, kernels: ctypes.CDLL) -> Rotate:
    def fused(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *arguments: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if arguments or options or not all(_fits(heads, cos, sin) for heads in (q, k)):
            return rotate(q, k, cos, sin, *arguments, **options)
        return _rotated(q, cos, sin, kernels), _rotated(k, cos, sin, kernels)

    return fused


def _fits(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> bool:
    """[1, H, T, D] whose numbers of a head lie side by side, and an angle for each token and number."""
    tensors = (heads, cosine, sine)
    angles = (1, heads.shape[2], heads.shape[3])
    return (
        all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and heads.shape[0] == 1
        and heads.stride(3) == 1
        and all(angle.shape == angles and angle.is_contiguous() for angle in (cosine, sine))
    )


def _rotated(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, kernels: ctypes.CDLL) -> torch.Tensor:
    _, count, tokens, dimension = heads.shape
    # Tokens outside heads, as the product before it has left them.
    output = heads.new_empty(1, tokens, count, dimension).transpose(1, 2)
    source = heads if heads.stride() == output.stride() else heads.transpose(1, 2).contiguous().transpose(1, 2)
    given = (source.data_ptr(), cosine.data_ptr(), sine.data_ptr(), output.data_ptr())
    kernels.rotate_halves(*given, count, tokens, dimension, output.stride(1), output.stride(2))
    return output

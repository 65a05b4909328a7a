"""Norms, rotations and gated feed-forward networks of a model, each as one walk over its numbers: pointwise.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from triagekit.decoding.kernels.build import library
from triagekit.decoding.kernels.int8 import declare as declare_int8
from triagekit.decoding.kernels.int8 import with_fused_scales
from triagekit.decoding.kernels.rotary import with_fused_rotary
from triagekit.modeling.int8_linear import Int8Linear
from triagekit.modeling.row_blocks import in_row_blocks

_TOLERANCE = 1e-5
_found: dict[type[nn.Module], bool] = {}


@contextmanager
def fused_pointwise(model: nn.Module) -> Iterator[None]:
    """Inside the block, norms, rotary embeddings, feed-forward networks of known kinds and 8-bit layers run fused; as before
    after it.

    Only float32 on the CPU is. A module is taken only if it has what its kind computes with, and its class gives the same
    on random numbers.
    """
    kernels = _kernels()
    fused: list[nn.Module] = []
    if kernels is not None:
        for module in model.modules():
            forward = _fused(module, kernels)
            if forward is not None:
                module.forward = forward
                fused.append(module)
    try:
        yield
    finally:
        for module in fused:
            del module.forward


def _kernels() -> ctypes.CDLL | None:
    found = library("pointwise")
    if found is not None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        found.root_mean_square_norm.argtypes = [pointer] * 3 + [number] * 2 + [ctypes.c_float]
        found.root_mean_square_norm.restype = None
        found.gated_product.argtypes = [pointer] * 3 + [number]
        found.gated_product.restype = None
        found.rotate_halves.argtypes = [pointer] * 4 + [number] * 5
        found.rotate_halves.restype = None
        declare_int8(found)
    return found


def _fused(module: nn.Module, kernels: ctypes.CDLL) -> Callable[..., Any] | None:
    """A forward in place of the module's own; None for a module of another kind."""
    if "forward" in vars(module):
        return None  # somebody else has replaced it
    if _is_norm(module):
        return _norm(module, kernels)
    if _is_gated(module):
        return _gated(module, kernels)
    if isinstance(module, Int8Linear) and module.weight.device.type == "cpu":
        return with_fused_scales(module, kernels)
    return with_fused_rotary(module, kernels)


def _is_norm(module: nn.Module) -> bool:
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, torch.Tensor) or not isinstance(epsilon, float) or weight.dim() != 1:
        return False
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or list(module.children()):
        return False

    def expected(numbers: torch.Tensor) -> torch.Tensor:
        return numbers * torch.rsqrt(numbers.square().mean(-1, keepdim=True) + epsilon) * weight

    return _computes(module, expected, len(weight))


def _norm(module: nn.Module, kernels: ctypes.CDLL) -> Callable[..., Any]:
    own, weight, epsilon = module.forward, module.weight.detach(), float(module.variance_epsilon)  # type: ignore[arg-type, operator]
    width = len(weight)

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        if not _plain(hidden_states):
            return own(hidden_states)  # type: ignore[no-any-return]
        output = torch.empty_like(hidden_states)
        rows = hidden_states.numel() // width
        given = (hidden_states.data_ptr(), weight.data_ptr(), output.data_ptr())
        kernels.root_mean_square_norm(*given, rows, width, epsilon)
        return output

    return forward


def _is_gated(module: nn.Module) -> bool:
    """A network down(act(gate(x)) * up(x)) with SiLU, and nothing more."""
    network: Any = module
    parts = {name for name, _ in module.named_children()}
    if parts != {"gate_proj", "up_proj", "down_proj", "act_fn"} or "silu" not in type(network.act_fn).__name__.lower():
        return False
    width = getattr(network.gate_proj, "in_features", None)
    if width is None or any(
        weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in module.parameters()
    ):
        return False

    def expected(numbers: torch.Tensor) -> torch.Tensor:
        gate = nn.functional.silu(network.gate_proj(numbers))
        return network.down_proj(gate * network.up_proj(numbers))  # type: ignore[no-any-return]

    return _computes(module, expected, width)


def _computes(module: nn.Module, expected: Callable[[torch.Tensor], torch.Tensor], width: int) -> bool:
    """Whether modules of this class compute what is expected: found out once, on random numbers [2, width]."""
    if type(module) not in _found:
        numbers = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            _found[type(module)] = torch.allclose(module(numbers), expected(numbers), rtol=_TOLERANCE, atol=_TOLERANCE)
    return _found[type(module)]


def _gated(module: nn.Module, kernels: ctypes.CDLL) -> Callable[..., Any]:
    own: Callable[..., Any] = module.forward
    network: Any = module

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not _plain(x):
            return own(x)  # type: ignore[no-any-return]
        return in_row_blocks(of_block, x)

    def of_block(x: torch.Tensor) -> torch.Tensor:
        gate, up = network.gate_proj(x), network.up_proj(x)
        if not (_plain(gate) and _plain(up)):
            return network.down_proj(network.act_fn(gate) * up)  # type: ignore[no-any-return]
        kernels.gated_product(gate.data_ptr(), up.data_ptr(), gate.data_ptr(), gate.numel())
        return network.down_proj(gate)  # type: ignore[no-any-return]

    return forward


def _plain(tensor: torch.Tensor) -> bool:
    """What the loops can read."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()

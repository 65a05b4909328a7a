"""Matrix products in 8-bit integers: ours beside torch's, on the shapes of a model's layers.

`ours` is what the decoder calls: a token's activations rounded to a scale of their own, the whole-number product, and the scales
put back, with the compiled loops. As every product here rounds its own input, it does more than in a model, where query, key and
value read one input that is rounded once.

All on one thread, as a lane of the decoder has it.

- `ours without loops`: the same by torch's operations.
- `_int_mm alone`, `qlinear_pointwise alone`: activations are rounded already. The first gives whole numbers; the second, which is
  oneDNN's, float32 that is scaled on the way.
- `qlinear_pointwise by token`: activations rounded as ours, by torch's operations, and each token's scale put back.
- `linear_dynamic`: torch's quantised linear layer on its engines; one scale for all tokens, so a token's result depends on its
  company.
- `_weight_int8pack_mm`: weights alone in 8 bits, activations as they are (in bfloat16, all that it takes).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from triagekit.decoding.kernels.pointwise import fused_pointwise
from triagekit.modeling.int8_linear import Int8Linear
from triagekit.modeling.packed_linear import packed_product

ROWS = (64, 256, 6400)
ENGINES = ("onednn", "fbgemm")
Product = Callable[[torch.Tensor], torch.Tensor]
_TURN = 0.02
"""Seconds that a turn takes at least, so that the clock is fine enough."""
_MIDDLE = 128
"""Zero of unsigned activations."""


def shapes(config: Any) -> dict[str, tuple[int, int]]:
    """Inner and outer side of each kind of linear layer of a model."""
    hidden, inner = config.hidden_size, config.intermediate_size
    narrow = hidden // config.num_attention_heads * config.num_key_value_heads
    return {
        "query, output": (hidden, hidden),
        "key, value": (hidden, narrow),
        "gate, up": (hidden, inner),
        "down": (inner, hidden),
    }


def compare_products(config: Any, rounds: int) -> list[dict[str, Any]]:
    """Of every shape and number of rows: milliseconds of the packed float32 product, and ratios of CPU seconds to it."""
    torch.set_num_threads(1)
    found = []
    generator = torch.Generator().manual_seed(0)
    for name, (inner, outer) in shapes(config).items():
        weight = torch.randn(outer, inner, generator=generator) * inner**-0.5
        for rows in ROWS:
            states = torch.randn(rows, inner, generator=generator)
            one = {"layer": name, "inner": inner, "outer": outer, "rows": rows, **_one(weight, states, rounds)}
            ratios = ", ".join(f"{way} {each['ratio']}" for way, each in one["ways"].items())
            print(f"  {inner} x {outer}, {rows} rows: {ratios}", flush=True)
            found.append(one)
    return found


@torch.inference_mode()
def _one(weight: torch.Tensor, states: torch.Tensor, rounds: int) -> dict[str, Any]:
    exact = nn.functional.linear(states, weight)
    with ExitStack() as stack:
        ways = dict(_ways(weight, states, stack))
        counts, errors, seconds = {}, {}, {name: [] for name in ways}
        for name, way in ways.items():
            result = way()
            if not name.endswith("alone"):
                errors[name] = float((result - exact).abs().max() / exact.abs().max())
            counts[name] = max(1, round(_TURN / max(_seconds(way, 3), 1e-6)))
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(_seconds(way, counts[name]))
    baseline = seconds["float32"]
    return {
        "float32_cpu_ms": round(1e3 * median(baseline), 4),
        "ways": {
            name: {
                "ratio": round(median(own / other for own, other in zip(each, baseline, strict=True)), 3),
                **({"error": float(f"{errors[name]:.2g}")} if name in errors else {}),
            }
            for name, each in seconds.items()
        },
    }


def _seconds(way: Callable[[], torch.Tensor], times: int) -> float:
    begun = time.process_time()
    for _ in range(times):
        way()
    return (time.process_time() - begun) / times


def _ways(
    weight: torch.Tensor, states: torch.Tensor, stack: ExitStack
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Every way to multiply, ready to be called; those that this torch does not have are left out."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    yield "float32", partial(packed_product(weight) or linear, states)
    yield "float32, torch", partial(linear, states)
    ours, plain = Int8Linear(linear), Int8Linear(linear)
    stack.enter_context(fused_pointwise(ours))
    # A view is another object: what was rounded for the last call is not taken for this one.
    yield "ours", lambda: ours(states.view_as(states))
    yield "ours without loops", partial(plain, states)
    scale = states.abs().amax(dim=1, keepdim=True) / 127
    codes = (states / scale).round().to(torch.int8)
    yield "_int_mm alone", partial(torch._int_mm, codes, ours.weight.t())
    yield from _of_onednn(ours, states)
    yield from _dynamic(linear, states)
    halves, rates = states.bfloat16(), ours.scale.bfloat16()
    yield "_weight_int8pack_mm", lambda: torch.ops.aten._weight_int8pack_mm(halves, ours.weight, rates).float()


def _of_onednn(ours: Int8Linear, states: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    packed = torch.ops.onednn.qlinear_prepack(ours.weight, None)
    zeros = torch.zeros(len(ours.scale), dtype=torch.int32)

    def rounded() -> tuple[torch.Tensor, torch.Tensor]:
        scales = (states.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        # Signed activations it multiplies by a loop for reference, some thousand times slower.
        return (states * scales.reciprocal()).add_(_MIDDLE).round_().to(torch.uint8), scales

    def product(codes: torch.Tensor) -> torch.Tensor:
        post = (None, 1.0, 0, torch.float32, "none", [], "")
        return torch.ops.onednn.qlinear_pointwise(codes, 1.0, _MIDDLE, packed, ours.scale, zeros, *post)

    def by_token() -> torch.Tensor:
        codes, scales = rounded()
        return product(codes).mul_(scales)

    codes = rounded()[0]
    yield "qlinear_pointwise alone", lambda: product(codes)
    yield "qlinear_pointwise by token", by_token


def _dynamic(linear: nn.Linear, states: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    before = torch.backends.quantized.engine
    scale = linear.weight.abs().amax(dim=1) / 127
    zeros = torch.zeros(len(scale), dtype=torch.long)
    codes = torch.quantize_per_channel(linear.weight, scale, zeros, 0, torch.qint8)
    for engine in ENGINES:
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            packed = torch.ops.quantized.linear_prepack(codes, None)
            # fbgemm sums two products in 16 bits where it is not told to keep to 7 bits.
            yield f"linear_dynamic, {engine}", partial(torch.ops.quantized.linear_dynamic, states, packed, True)
    torch.backends.quantized.engine = before

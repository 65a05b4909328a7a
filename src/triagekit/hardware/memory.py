"""Peak memory of a training run on one device, part by part, from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass

from triagekit.hardware.activations import (
    FLOAT32,
    evaluation_memory,
    kept_activations,
    logit_memory,
    working_memory,
)
from triagekit.hardware.ladder import Rung
from triagekit.hardware.load import TrainingLoad
from triagekit.hardware.model_shape import ModelShape

__all__ = [
    "MemoryEstimate",
    "TrainingLoad",
    "base_weights",
    "estimate_memory",
    "quantised_bits",
    "trained_parameters",
]

GIBIBYTE = 2**30
CUDA_CONTEXT = GIBIBYTE // 2
"""CUDA context, kernels and cuBLAS workspaces of one process: between 0.4 and 0.6 GiB, by driver and card."""

NCCL_BUFFERS = int(0.3 * GIBIBYTE)
"""What NCCL's channels take on each of several devices."""

PROCESS = int(0.7 * GIBIBYTE)
"""Resident memory of a CPU process with torch, transformers, peft and trl loaded."""

BLOCK_4BIT, BLOCK_SCALES, BLOCK_OPTIMIZER = 64, 256, 256
SMALLEST_8BIT_STATE = 4096
"""bitsandbytes keeps the optimizer state of smaller tensors in 32 bits."""

REDUCE_BUCKET = 50_000_000
"""Gradients that ZeRO collects before it sends them: `reduce_bucket_size` of configs/deepspeed/."""

LIVE_PARAMETERS = 1_000_000_000
"""Weights that ZeRO-3 keeps whole at a time at most: `stage3_max_live_parameters` of configs/deepspeed/."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device.

    While training, everything but `loader_peak` is there at once: `activations` holds whatever backward needs beside
    the logits too. `loader_peak` is the most that loading and attaching takes, before there is anything else.
    `evaluation` is a validation batch, in place of activations and logits.
    """

    weights: int
    quantisation: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    context: int
    loader_peak: int
    evaluation: int

    @property
    def steady(self) -> int:
        """Between two steps: no activations, no logits."""
        return self.context + self.weights + self.quantisation + self.adapter + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """The most at any time: in a training step, a validation batch, or while loading."""
        step = self.steady + max(self.activations + self.logits, self.evaluation)
        return max(step, self.context + self.loader_peak)

    def as_dict(self) -> dict[str, int]:
        """The parts, `steady` and `peak` by name, in bytes."""
        return {**{name: int(value) for name, value in vars(self).items()}, "steady": self.steady, "peak": self.peak}


def estimate_memory(shape: ModelShape, load: TrainingLoad, rung: Rung) -> MemoryEstimate:
    """Memory of one device of `rung` under `load` (which already is as the rung has it).

    weights       c bytes a frozen weight; 4 where all are trained (float32 masters); see quantised_bits
    quantisation  scales of a quantised base, and the largest matrix in c bytes: products are computed on it
    adapter       4 bytes a trained weight beside the base: trained weights are float32 on every rung
    gradients     4 bytes a trained weight; under DDP twice, since its buckets are copies (gradient_as_bucket_view=False)
    optimizer     adamw 8 bytes a trained weight (two float32 moments), 8-bit 2 and a scale per 256 numbers
                  (Dettmers et al. 2022, arXiv 2110.02861), adafactor a row and a column, sgd nothing
    ZeRO-2        optimizer and gradients divided by the world, plus its float32 partition and one bucket
    ZeRO-3        weights divided too, with up to LIVE_PARAMETERS of them whole beside the shares
                  (both: Rajbhandari et al. 2020, arXiv 1910.02054, section 5)
    """
    c, world = load.compute_bytes, rung.world
    sharded = rung.sharding in ("zero2", "zero3")
    trained = trained_parameters(shape, load)
    weights, overhead = _weights(shape, load)
    full = load.method == "full"
    adapter = 0 if full else FLOAT32 * trained
    gradients = FLOAT32 * trained * (2 if rung.sharding == "ddp" else 1)
    optimizer = _optimizer(shape, load, trained)
    if sharded:
        bucket = FLOAT32 * min(trained, REDUCE_BUCKET)
        gradients = FLOAT32 * trained // world + bucket
        optimizer = (optimizer + FLOAT32 * trained) // world
    if rung.sharding == "zero3":
        weights = weights // world + min(shape.parameters, LIVE_PARAMETERS) * (FLOAT32 if full else c)
        adapter //= world
    logits = logit_memory(shape, load)
    working = working_memory(shape, load, rung.on_cpu)
    return MemoryEstimate(
        weights=weights,
        quantisation=overhead,
        adapter=adapter,
        gradients=gradients,
        optimizer=optimizer,
        activations=kept_activations(shape, load, rung.on_cpu) + max(0, working - logits),
        logits=logits,
        context=PROCESS if rung.on_cpu else CUDA_CONTEXT + (NCCL_BUFFERS if world > 1 else 0),
        # ZeRO-3 takes the base from the CPU, tensor by tensor.
        loader_peak=weights if rung.sharding == "zero3" else _loader_peak(shape, load, adapter),
        evaluation=evaluation_memory(shape, load),
    )


def quantised_bits(bits: int, double_quant: bool) -> float:
    """Bits that one weight of a quantised linear module takes, scales included (outputs' scales of 8 bits are fewer).

    4 bits: a float32 scale per 64 weights, 4.5 bits; with double quantisation an 8-bit scale per 64 and a float32 one per
    64 · 256: 4 + 8/64 + 32/16384 = 4.127 bits (Dettmers et al. 2023, arXiv 2305.14314, section 3).
    """
    if bits == 8:
        return 8.0
    if not double_quant:
        return 4 + 32 / BLOCK_4BIT
    return 4 + 8 / BLOCK_4BIT + 32 / (BLOCK_4BIT * BLOCK_SCALES)


def trained_parameters(shape: ModelShape, load: TrainingLoad) -> int:
    """Weights that are trained: all; or r(in + out) a low-rank update, DoRA's magnitudes, hybrid's head and norms."""
    if load.method == "full":
        return shape.parameters
    adapted = [(inputs, outputs) for name, inputs, outputs in shape.linears if load.adapts(name)]
    layers = shape.layers if load.layers is None else load.layers
    count = layers * load.rank * sum(inputs + outputs for inputs, outputs in adapted)
    if load.dora:
        count += layers * sum(outputs for _, outputs in adapted)
    if load.method == "hybrid":
        rows = {"all": shape.vocabulary, "output_tokens": min(load.output_tokens, shape.vocabulary), "none": 0}
        count += rows[load.head] * shape.hidden + shape.norm_parameters
    return count


def base_weights(shape: ModelShape, load: TrainingLoad) -> int:
    """Bytes of the base's weights on a device that holds all of them."""
    return _weights(shape, load)[0]


def _weights(shape: ModelShape, load: TrainingLoad) -> tuple[int, int]:
    """(the base's weights, what quantisation adds), in bytes."""
    c = load.compute_bytes
    if load.method == "full":
        return FLOAT32 * shape.parameters, 0
    if load.bits is None:
        return c * shape.parameters, 0
    linear = shape.linear_parameters
    codes = linear * load.bits // 8
    if load.bits == 8:
        scales = FLOAT32 * shape.layers * sum(outputs for _, _, outputs in shape.linears)
    else:
        scales = int(linear * (quantised_bits(4, load.double_quant) - 4) / 8)
    largest = max(inputs * outputs for _, inputs, outputs in shape.linears)
    return codes + c * shape.other_parameters, scales + c * largest


def _optimizer(shape: ModelShape, load: TrainingLoad, trained: int) -> int:
    if load.optimizer == "sgd":
        return 0
    if load.optimizer == "adafactor":
        if load.method == "full":
            matrices = shape.layers * sum(inputs + outputs for _, inputs, outputs in shape.linears)
            return FLOAT32 * (matrices + shape.vocabulary + shape.hidden + shape.norm_parameters)
        adapted = [(inputs, outputs) for name, inputs, outputs in shape.linears if load.adapts(name)]
        matrices = shape.layers * sum(inputs + outputs + 2 * load.rank for inputs, outputs in adapted)
        whole = shape.vocabulary + shape.hidden + shape.norm_parameters if load.method == "hybrid" else 0
        return FLOAT32 * (matrices + whole)
    if load.optimizer in ("adamw_8bit", "paged_adamw_8bit"):
        small = shape.norm_parameters if load.method in ("hybrid", "full") and shape.hidden < SMALLEST_8BIT_STATE else 0
        return 2 * FLOAT32 * small + int(2 * (trained - small) * (1 + FLOAT32 / BLOCK_OPTIMIZER))
    return 2 * FLOAT32 * trained


def _loader_peak(shape: ModelShape, load: TrainingLoad, adapter: int) -> int:
    """Bytes while the base is loaded and the adapter attached.

    A base that is quantised on the way comes one tensor at a time: what is resident, and the largest matrix as it was.
    Full fine-tuning turns the loaded base into float32 tensor by tensor. PiSSA decomposes one matrix at a time in
    float32, DoRA adds up one matrix with its update.
    """
    c = load.compute_bytes
    weights, overhead = _weights(shape, load)
    largest = max(inputs * outputs for _, inputs, outputs in shape.linears)
    if load.method == "full":
        return weights + c * shape.largest_tensor
    peak = weights + overhead + (c * largest if load.bits else 0)
    attaching = 4 * FLOAT32 * largest if load.pissa else 3 * FLOAT32 * largest if load.dora else 0
    return max(peak, weights + overhead + adapter + attaching)

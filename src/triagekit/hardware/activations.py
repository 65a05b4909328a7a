"""Memory of one micro-batch: what autograd keeps of each layer, what backward needs beside it, and the logits.

The counts are those of PyTorch's own graph for a Llama-like layer (norm, attention through sdpa, gated MLP) with PEFT's
adapters. Korthikanti et al. 2022 (arXiv 2205.05198, section 4) count a layer of a fully trained GPT in the same way; a
frozen base keeps less, since a frozen product needs no input for a weight's gradient. A test compares the sums with the
bytes that the allocator hands out in a real step.

Symbols: N token positions of the micro-batch, c bytes of a computed number, H hidden, I intermediate, A query width,
K key width, r rank.
"""

from __future__ import annotations

from triagekit.hardware.load import TrainingLoad
from triagekit.hardware.model_shape import ModelShape

FLOAT32 = 4
LOGIT_BYTES = 12
"""Of one logit at backward's start: log-probability, its gradient, and the logit's gradient, all float32."""

LOGITS_AT_ONCE = 256 * 2**20
"""Bytes of logits that the loss has in memory together; more are computed piece by piece."""

EVALUATION_LOGIT_BYTES = 10
"""Of one logit without gradients: half-precision logit, float32 logit, log-probability."""


def layer_activations(shape: ModelShape, load: TrainingLoad, on_cpu: bool = False) -> int:
    """Bytes that autograd keeps of one layer for backward, weights' half-precision copies not counted.

    Per token: 4H a norm (its float32 input; as much again where the norm is trained) and 4 a norm for the root mean
    square; c(2A + 2A) of attention (queries, repeated keys and values, output: a padded batch has a mask, with which
    sdpa repeats the keys) and 4 a head; 3cI of the gated MLP; the inputs of adapted or trained products; c·r a low-rank
    update. Beside that the mask, c·T² a row.
    """
    c, heads = load.compute_bytes, shape.heads
    queries, keys = heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    norms_trained = load.method in ("hybrid", "full")
    norms = [shape.hidden] * ((shape.norm_parameters // shape.layers) // shape.hidden)
    norms += [queries, keys] if shape.head_norms else []
    per_token = sum(norms) * FLOAT32 * (2 if norms_trained else 1) + FLOAT32 * len(norms)
    per_token += c * 4 * queries + FLOAT32 * heads
    per_token += 3 * c * shape.intermediate
    per_token += _kept_inputs(shape, load, on_cpu)
    adapted = [(inputs, outputs) for name, inputs, outputs in shape.linears if load.adapts(name)]
    per_token += c * load.rank * len(adapted)
    if load.dora:
        # The base's product and the low-rank one, for the gradient of the magnitude.
        per_token += 2 * c * sum(outputs for _, outputs in adapted)
    if load.dropout:
        # The mask: a byte on CUDA, a float32 number on CPU.
        per_token += (FLOAT32 if on_cpu else 1) * sum(inputs for inputs, _ in adapted)
    return load.rows_tokens * per_token + load.micro * load.length**2 * c


def _kept_inputs(shape: ModelShape, load: TrainingLoad, on_cpu: bool) -> int:
    """Bytes a token of the products' inputs that are kept for the gradients of A matrices or weights.

    Under autocast each adapted module casts its input to float32 and back, so that each keeps a copy of its own; the
    modules of a quantised base do not cast under CUDA's autocast. Without casts q, k, v share one input, gate and up
    another, and o's is the attention's output, which is kept anyway.
    """
    c = load.compute_bytes
    names = {name: inputs for name, inputs, _ in shape.linears if load.adapts(name)}
    if load.method == "full" or load.bits == 8:
        names = {name: inputs for name, inputs, _ in shape.linears}
    own_copies = load.mixed and (load.bits is None or on_cpu)
    if own_copies or (load.dropout and load.method != "full"):
        shared = {"o_proj"} if load.method == "full" else set()
        return c * sum(inputs for name, inputs in names.items() if name not in shared)
    groups = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"down_proj"})
    return c * sum(max((names[name] for name in group & set(names)), default=0) for group in groups)


def kept_activations(shape: ModelShape, load: TrainingLoad, on_cpu: bool = False) -> int:
    """Bytes kept between forward and backward of the whole model.

    Without gradient checkpointing every layer's; with it each layer's input only, c·H a token (Chen et al. 2016, arXiv
    1604.06174). Then the final norm, and the half-precision copies that autocast makes of float32 weights and holds until
    backward is through.
    """
    trained = 2 if load.method in ("hybrid", "full") else 1
    final_norm = load.rows_tokens * FLOAT32 * shape.hidden * trained
    stream = FLOAT32 if load.method == "full" else load.compute_bytes
    if load.gradient_checkpointing:
        return shape.layers * load.rows_tokens * shape.hidden * stream + final_norm
    kept = shape.layers * layer_activations(shape, load, on_cpu) + final_norm
    if load.mixed:
        kept += load.compute_bytes * _cast_weights(shape, load)
    return kept


def _cast_weights(shape: ModelShape, load: TrainingLoad) -> int:
    """Float32 weights of the layers of which autocast keeps half-precision copies."""
    if load.method == "full":
        return shape.linear_parameters
    adapted = sum(inputs + outputs for name, inputs, outputs in shape.linears if load.adapts(name))
    return shape.layers * load.rank * adapted


def working_memory(shape: ModelShape, load: TrainingLoad, on_cpu: bool = False) -> int:
    """Bytes that backward through a layer needs beside what is kept: gradients inside the MLP, 8I + 4H a token.

    With gradient checkpointing the layer's activations, computed again, come on top; with DoRA the identity matrix that
    PEFT sends through A and B to get their product.
    """
    working = load.rows_tokens * (8 * shape.intermediate + 4 * shape.hidden)
    if load.gradient_checkpointing:
        working += layer_activations(shape, load, on_cpu)
    if load.dora:
        widest = max((inputs for name, inputs, _ in shape.linears if load.adapts(name)), default=0)
        working += widest**2 * (FLOAT32 + (load.compute_bytes if load.mixed else 0))
    return working


def logit_memory(shape: ModelShape, load: TrainingLoad) -> int:
    """Bytes of the logits at the start of backward.

    Only positions whose next token is trained are projected to the vocabulary: rows × trained tokens × vocabulary × 12
    bytes, but never more than LOGITS_AT_ONCE together. A trained head (hybrid, full) adds its half-precision copy and its
    own gradient: beside the logits of a piece where there are several; else the logits are gone when the gradient comes, in
    both number types, and the larger of the two counts.
    """
    c = load.compute_bytes
    positions = load.micro * min(load.trained_tokens, load.length)
    at_once = min(positions, _positions_at_once(shape))
    logits = LOGIT_BYTES * at_once * shape.vocabulary
    if load.method != "full" and (load.method != "hybrid" or load.head != "all"):
        return logits
    copy = c * shape.head_parameters if load.mixed else 0
    if at_once < positions:
        return copy + FLOAT32 * shape.head_parameters + logits
    gradient = (FLOAT32 + (c if load.mixed else 0)) * shape.head_parameters
    return copy + max(logits, c * positions * shape.vocabulary + gradient)


def evaluation_memory(shape: ModelShape, load: TrainingLoad) -> int:
    """Bytes of a validation batch: no gradients, so one layer's working memory and the logits, one after the other."""
    tokens = load.eval_rows * load.length
    c = load.compute_bytes
    layer = (
        tokens * (3 * c * shape.intermediate + (3 * c + FLOAT32) * shape.hidden) + load.eval_rows * load.length**2 * c
    )
    positions = min(load.eval_rows * min(load.trained_tokens, load.length), _positions_at_once(shape))
    logits = positions * shape.vocabulary * EVALUATION_LOGIT_BYTES
    return tokens * c * shape.hidden + max(layer, logits)


def _positions_at_once(shape: ModelShape) -> int:
    return max(1, LOGITS_AT_ONCE // (shape.vocabulary * LOGIT_BYTES))

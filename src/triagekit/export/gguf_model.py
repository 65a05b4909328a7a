"""A model in GGUF's terms: which architecture, which figures, and each weight by its GGUF name and in its order.

Names come from the library's own table (gguf.TensorNameMap). llama.cpp turns query and key of its `llama` architecture in
pairs of neighbours (0, 1), (2, 3), …, transformers in pairs of halves (0, d/2), (1, d/2 + 1), … (Su et al. 2021, RoFormer,
arXiv 2104.09864, leaves the pairing free), so the rows of these two weights change places; in `qwen2` and `qwen3` llama.cpp
pairs halves too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from triagekit.errors import TriageError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter

ARCHITECTURES = {"qwen2": "QWEN2", "qwen3": "QWEN3", "llama": "LLAMA"}
"""model_type of the configuration → the library's name of the architecture."""

_ROTARY_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GgufTensor:
    """One tensor. `name` is GGUF's; `source` the parameter's (None: computed); `heads` where rows change places."""

    name: str
    source: str | None
    weight: torch.Tensor
    heads: int | None = None

    def values(self) -> np.ndarray:
        """float32, in GGUF's order of rows."""
        weight = self.weight.detach().float().cpu()
        return (weight if self.heads is None else neighbours(weight, self.heads)).contiguous().numpy()

    def back(self, values: np.ndarray) -> torch.Tensor:
        """What `values` gives were it the parameter: the inverse of the change of rows."""
        weight = torch.from_numpy(values.copy()).reshape(self.weight.shape)
        return weight if self.heads is None else halves(weight, self.heads)


def architecture(config: Any) -> str:
    """llama.cpp's name for the architecture of a model's configuration.

    Raises TriageError for one that is not written here, or that departs from what llama.cpp computes under that name.
    """
    kind = str(config.model_type)
    if kind not in ARCHITECTURES:
        raise TriageError(
            f"GGUF export knows the families {', '.join(ARCHITECTURES)}; this base is {kind}. "
            "Export the merged model (triage export merge) and convert it with llama.cpp's own converter."
        )
    problems = []
    if getattr(config, "hidden_act", "silu") != "silu":
        problems.append(f"hidden_act {config.hidden_act} (silu is computed)")
    if getattr(config, "use_sliding_window", False):
        problems.append("use_sliding_window (full attention is computed)")
    if _rotary(config)["rope_type"] not in {"default", "linear", "llama3"}:
        problems.append(f"rope_type {_rotary(config)['rope_type']} (default, linear and llama3 are written)")
    if problems:
        raise TriageError(f"llama.cpp's {kind} would not compute what this base does: {'; '.join(problems)}.")
    return kind


def write_figures(writer: GGUFWriter, config: Any) -> None:
    """Sizes, rotary embedding, norms."""
    head = head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head)
    rotary = _rotary(config)
    writer.add_rope_freq_base(rotary["rope_theta"])
    if rotary["rope_type"] == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rotary["factor"])


def tensors(model: Any) -> Iterator[GgufTensor]:
    """Every weight once, in the model's order. Raises TriageError for one that GGUF has no name for."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(
        getattr(gguf.MODEL_ARCH, ARCHITECTURES[architecture(config)]), config.num_hidden_layers
    )
    if _rotary(config)["rope_type"] == "llama3":
        yield GgufTensor(_ROTARY_FACTORS, None, _rotary_factors(model))
    # Tied weights come once, as the embedding: GGUF's readers take that for the head where there is no other.
    for source, weight in model.named_parameters():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise TriageError(f"GGUF has no name for the weight {source} of a {config.model_type} model.")
        yield GgufTensor(name, source, weight, _pair_heads(config, source))


def head_size(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads · d, …) from pairs of halves to pairs of neighbours, head by head."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Inverse of `neighbours`."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _pair_heads(config: Any, source: str) -> int | None:
    if config.model_type != "llama":
        return None
    return {"q_proj": int(config.num_attention_heads), "k_proj": int(config.num_key_value_heads)}.get(
        source.rsplit(".", 2)[-2]
    )


def _rotary(config: Any) -> dict[str, Any]:
    return dict(config.rope_parameters)


def _rotary_factors(model: Any) -> torch.Tensor:
    """(d/2,): by how much each frequency is lowered, read off the model's own frequencies."""
    config = model.config
    steps = torch.arange(0, head_size(config), 2, dtype=torch.float64)
    plain = float(_rotary(config)["rope_theta"]) ** (-steps / head_size(config))
    own: torch.Tensor = model.model.rotary_emb.inv_freq.detach().cpu().double()
    return (plain / own).float()

"""What a training run puts on a device: the figures of its settings that memory depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingLoad:
    """A run as it is on one rung, after the rung has been applied to its settings."""

    method: Literal["lora", "hybrid", "full"] = "lora"
    rank: int = 16
    targets: tuple[str, ...] | None = None
    """Ends of the names of the adapted modules; None: every linear module of the layers."""
    layers: int | None = None
    """How many of the decoder layers have adapted modules; None: all."""
    dora: bool = False
    pissa: bool = False
    dropout: float = 0.0
    head: Literal["all", "output_tokens", "none"] = "all"
    output_tokens: int = 2048
    """Rows of the head that `head: output_tokens` trains; they depend on schema and tokenizer."""
    bits: Literal[4, 8] | None = None
    """Bits of a quantised base."""
    double_quant: bool = True
    quantised_compute: str = "auto"
    """Number type that a quantised base's products are asked for in; auto: that of `precision`."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    optimizer: str = "adamw"
    micro: int = 8
    """Rows at once in training."""
    eval_rows: int = 32
    """Rows at once in validation."""
    length: int = 512
    """Tokens of the longest row."""
    trained_tokens: int = 128
    """Tokens of a row whose logits are computed: the record and the end of turn."""
    gradient_checkpointing: bool = False

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number that products are computed in."""
        return 4 if self.precision == "fp32" else 2

    @property
    def mixed(self) -> bool:
        """Whether autocast is on: float32 trained weights, half-precision products."""
        return self.precision != "fp32"

    @property
    def rows_tokens(self) -> int:
        """Token positions of one micro-batch."""
        return self.micro * self.length

    def adapts(self, module: str) -> bool:
        """Whether the linear module `module` gets low-rank updates."""
        if self.method == "full":
            return False
        return self.targets is None or any(module == target.rpartition(".")[2] for target in self.targets)

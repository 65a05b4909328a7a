"""Settings of this room: prompt, adapter, quantisation. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from triagekit.settings import Settings

Precision = Literal["auto", "fp32", "fp16", "bf16"]
ScoringPrecision = Literal["auto", "fp32", "fp16", "bf16", "int8", "nf4"]
"""Of weights that are only used: int8 with activations in 8 bits too, nf4 for a base in 4 bits with the adapter beside it."""


class PromptSettings(Settings):
    """How a ticket is put to the model."""

    strategy: Literal["explicit", "implicit", "mixed"] = Field(
        "explicit",
        description="explicit: fields and values stand in the system message; implicit: one of the schema's short "
        "instructions stands before the ticket, the schema is learnt; mixed: both, so that either works at scoring",
    )
    record_format: Literal["json", "compact"] | None = Field(
        default=None,
        description="what the model writes: json (the record itself) or compact (its values alone, one a line, less than "
        "half of the tokens; rendered to the same JSON); absent: the schema's own `format`",
    )
    max_length: int = Field(512, ge=16, description="tokens of prompt and record together; longer tickets are cut")


class QuantizationSettings(Settings):
    """bitsandbytes weights of the frozen base (QLoRA: Dettmers et al. 2023, arXiv 2305.14314)."""

    bits: Literal[4, 8] = Field(4, description="4: about 0.6 bytes a weight; 8: LLM.int8(), about 1.1")
    type: Literal["nf4", "fp4"] = Field("nf4", description="4-bit number format; nf4 loses less on trained weights")
    double_quant: bool = Field(True, description="quantise the 4-bit scales too: 0.4 bits a weight less")
    compute_dtype: Precision = Field("auto", description="type that products are computed in; auto: the base's own")


class AdapterSettings(Settings):
    """Which weights are trained."""

    method: Literal["lora", "hybrid", "full"] = Field(
        "lora",
        description="lora: low-rank updates; hybrid: lora and the full-rank output head and every norm; "
        "full: every weight",
    )
    r: PositiveInt = Field(16, description="rank of the low-rank updates")
    alpha: PositiveInt = Field(32, description="the update is scaled by alpha/sqrt(r) with rslora, else by alpha/r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the low-rank update")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="'all-linear' (every linear layer but the head) or ends of module names: [q_proj, v_proj]",
    )
    layers: list[NonNegativeInt] | None = Field(
        None, description="numbers of the decoder layers (from 0) that get low-rank updates; absent: all of them"
    )
    rslora: bool = Field(True, description="rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732)")
    dora: bool = Field(False, description="train each column's magnitude too (Liu et al. 2024, arXiv 2402.09353)")
    pissa: bool = Field(False, description="start from the principal parts (Meng et al. 2024, arXiv 2404.02948)")
    lora_plus_ratio: float = Field(
        1.0,
        ge=1,
        description="learning rate of the low-rank B over that of A; its authors advise 16 "
        "(LoRA+: Hayou et al. 2024, arXiv 2402.12354)",
    )
    head: Literal["all", "output_tokens", "none"] = Field(
        "all",
        description="hybrid only. all: the whole output head; output_tokens: only its rows of tokens that labels, "
        "skeleton and end of turn are made of; none: norms only",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> AdapterSettings:
        if isinstance(self.targets, list) and not self.targets and self.method != "full":
            raise ValueError("targets names no module; give 'all-linear' or a list such as [q_proj, v_proj]")
        if self.head != "all" and self.method != "hybrid":
            raise ValueError(f"head: {self.head} belongs to method: hybrid, but method is {self.method}")
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError("layers names no layer, or one twice; give different numbers from 0, or leave it out")
        if self.dora and self.pissa:
            raise ValueError("dora and pissa each redefine the base weight; choose one of them")
        if self.method == "full" and (self.dora or self.pissa or self.layers is not None or self.lora_plus_ratio != 1):
            raise ValueError("dora, pissa, layers and lora_plus_ratio shape low-rank updates; method: full has none")
        return self

    @property
    def scaling(self) -> float:
        """Factor s of the update s·B·A."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)

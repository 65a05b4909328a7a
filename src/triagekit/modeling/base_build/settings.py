"""Settings of the embedded base's recipe (configs/train/tiny_base.yaml)."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from triagekit.settings import Settings


class TokenizerSettings(Settings):
    """Byte-level BPE."""

    vocabulary: PositiveInt = Field(default=6144, description="tokens, the special ones included")
    tickets: PositiveInt = Field(default=12000, description="generated tickets in the text that merges are learnt from")
    taxonomies: PositiveInt = Field(default=400, description="made-up taxonomies in that text, with a few records each")


class ArchitectureSettings(Settings):
    """Qwen2: rotary positions, grouped-query attention, SwiGLU, RMSNorm, tied embeddings."""

    hidden: PositiveInt = 256
    layers: PositiveInt = 4
    heads: PositiveInt = 8
    key_value_heads: PositiveInt = 2
    intermediate: PositiveInt = 768
    positions: PositiveInt = 2048


class CorpusSettings(Settings):
    """What a training step sees: groups of tickets, each group under one made-up taxonomy and one prompt."""

    taxonomies: PositiveInt = Field(default=2000, description="number of different made-up taxonomies")
    groups: PositiveInt = Field(default=4, description="taxonomies in one step")
    rows: PositiveInt = Field(default=6, description="tickets a taxonomy in one step; they share one prompt prefix")
    implicit_share: float = Field(
        default=0.2, ge=0, le=1, description="groups whose prompt is a short instruction only"
    )
    spanish_share: float = Field(default=0.18, ge=0, le=1)
    text_weight: float = Field(default=0.25, ge=0, description="loss weight of a ticket token; a record token counts 1")


class ScheduleSettings(Settings):
    """AdamW; learning rate: warm-up, constant, then linear to zero over the last `decay_share` of the steps."""

    steps: PositiveInt = 1200
    learning_rate: PositiveFloat = 1.5e-3
    warmup_steps: PositiveInt = 50
    decay_share: float = Field(default=0.3, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    max_gradient_norm: PositiveFloat = 1.0
    log_every: PositiveInt = 20
    evaluate_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 100


class TinyBaseSettings(Settings):
    """The whole recipe: with the same versions and thread count it gives the same weights."""

    seed: int = 20
    threads: PositiveInt = Field(
        default=2, description="CPU threads; sums are ordered by it, so it belongs to the recipe"
    )
    tokenizer: TokenizerSettings = Field(default_factory=TokenizerSettings)
    architecture: ArchitectureSettings = Field(default_factory=ArchitectureSettings)
    corpus: CorpusSettings = Field(default_factory=CorpusSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    evaluation_groups: PositiveInt = Field(default=16, description="groups of unseen families under unseen taxonomies")
    generated_records: PositiveInt = Field(
        default=48, description="records written freely at the end, to see if they parse"
    )

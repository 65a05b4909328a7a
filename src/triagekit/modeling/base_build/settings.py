"""Settings of the embedded base's recipe (configs/train/tiny_base.yaml)."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

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
    """What a training step sees: groups of tickets, each group under one made-up taxonomy and one prompt.

    A stage with few taxonomies and `numbered` prompts lets labels be learnt by heart, and with them what tickets mean;
    one with many teaches form and copying.
    """

    from_step: int = Field(default=0, ge=0, description="first step of this stage")
    numbered: bool = Field(default=False, description="short instructions name the taxonomy by its number")
    taxonomies: PositiveInt = Field(default=2000, description="number of different made-up taxonomies")
    groups: PositiveInt = Field(default=4, description="taxonomies in one step")
    rows: PositiveInt = Field(default=6, description="tickets a taxonomy in one step; they share one prompt prefix")
    implicit_share: float = Field(
        default=0.2, ge=0, le=1, description="groups whose prompt is a short instruction only"
    )
    text_weight: float = Field(default=0.25, ge=0, description="loss weight of a ticket token; a value token counts 1")
    skeleton_weight: float = Field(default=1.0, ge=0, description="loss weight of a record token outside of values")


class ScheduleSettings(Settings):
    """AdamW, and a learning rate that runs in straight lines between `rate_points`."""

    steps: PositiveInt = 1200
    learning_rate: PositiveFloat = 2e-3
    rate_points: tuple[tuple[int, float], ...] = Field(
        default=((0, 0.02), (49, 1.0), (840, 1.0), (1200, 0.0)),
        min_length=2,
        description="(step, factor on the learning rate), steps ascending: warm-up, constant, fall",
    )
    weight_decay: float = Field(default=0.05, ge=0)
    max_gradient_norm: PositiveFloat = 1.0
    log_every: PositiveInt = 20
    evaluate_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 25

    @model_validator(mode="after")
    def _points_in_order(self) -> ScheduleSettings:
        steps = [step for step, _ in self.rate_points]
        if steps[0] != 0 or steps != sorted(set(steps)):
            raise ValueError(f"rate_points stand at steps {steps}; expected 0 first, then later ones in order")
        return self


class TinyBaseSettings(Settings):
    """The whole recipe: with the same versions and thread count it gives the same weights."""

    seed: int = 20
    threads: PositiveInt = Field(
        default=2, description="CPU threads; sums are ordered by it, so it belongs to the recipe"
    )
    tokenizer: TokenizerSettings = Field(default_factory=TokenizerSettings)
    architecture: ArchitectureSettings = Field(default_factory=ArchitectureSettings)
    stages: tuple[CorpusSettings, ...] = Field(default_factory=lambda: (CorpusSettings(),), min_length=1)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    evaluation_groups: PositiveInt = Field(default=16, description="groups of unseen families under unseen taxonomies")
    spanish_share: float = Field(default=0.18, ge=0, le=1)
    generated_records: PositiveInt = Field(
        default=48, description="records written freely at the end, to see if they parse"
    )

    @model_validator(mode="after")
    def _stages_in_order(self) -> TinyBaseSettings:
        starts = [stage.from_step for stage in self.stages]
        if starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"stages begin at steps {starts}; expected 0 first, then later ones in order")
        return self

    def stage_of(self, step: int) -> CorpusSettings:
        """The stage that step `step` belongs to."""
        return [stage for stage in self.stages if stage.from_step <= step][-1]

"""Everything a training run can be told, typed: one YAML in `configs/train/`, overridden by `key=value` words."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from triagekit.hardware.settings import HardwareSettings
from triagekit.modeling.settings import AdapterSettings, Precision, PromptSettings, QuantizationSettings
from triagekit.settings import Settings

Schedule = Literal[
    "cosine", "cosine_with_min_lr", "linear", "polynomial", "inverse_sqrt", "warmup_stable_decay", "constant"
]


class OptimizerSettings(Settings):
    """What moves the weights."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"] = Field(
        "adamw", description="adamw keeps two float32 figures a trained weight; the 8-bit ones a quarter of that"
    )
    learning_rate: float = Field(
        2e-3,
        gt=0,
        description="peak learning rate; for LoRA about ten times that of full fine-tuning, "
        "and the smaller the model the higher: 2e-3 at 5 M parameters, 2e-4 at 0.5-3 B",
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled decay, on matrices only (never on norms and biases)")
    schedule: Schedule = Field(
        "cosine",
        description="after the warm-up; cosine_with_min_lr ends at a tenth of the peak, warmup_stable_decay falls in the last "
        "fifth of the steps",
    )
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="share of all steps in which the rate climbs; more than 0.05 wastes a short run"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped at this global norm; 0 turns it off")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's two decay rates")
    epsilon: float = Field(1e-8, gt=0, description="Adam's guard against division by zero")


class BatchSettings(Settings):
    """How many rows make one optimizer step, and how many are in memory at once."""

    effective: PositiveInt = Field(16, description="rows of one optimizer step; LoRA learns best at 32 or fewer")
    micro: PositiveInt = Field(8, description="rows computed at once; changes memory and speed, not the result")
    eval: PositiveInt = Field(32, description="rows computed at once when measuring the validation loss")
    packing: Literal["shared_prefix", "none"] = Field(
        "shared_prefix",
        description="compute what prompts have in common once; changes memory and speed, not the result",
    )

    @model_validator(mode="after")
    def _divides(self) -> BatchSettings:
        if self.effective % self.micro:
            divisors = [n for n in range(1, self.effective + 1) if self.effective % n == 0]
            below = max(n for n in divisors if n <= self.micro)
            micro = str(below) if self.micro > self.effective else f"{below} or {min(n for n in divisors if n > below)}"
            lower = self.effective // self.micro * self.micro
            effective = f"{lower} or {lower + self.micro}" if lower else str(self.micro)
            raise ValueError(
                f"effective ({self.effective}) must be a multiple of micro ({self.micro}), so that every step sees "
                f"the same number of rows; nearest valid: micro {micro}, or effective {effective}"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Micro-batches of one optimizer step."""
        return self.effective // self.micro


class EarlyStoppingSettings(Settings):
    """End a run that no longer gets better on the validation split."""

    patience: PositiveInt = Field(3, description="evaluations in a row without improvement before stopping")
    threshold: float = Field(0.001, ge=0, description="a smaller gain does not count as improvement")


class EvaluationSettings(Settings):
    """The validation split, measured while training; the test split is never opened."""

    every_share: float = Field(
        0.1, gt=0, le=1, description="share of all steps between two measurements: 0.1 measures ten times a run"
    )
    best_metric: Literal["loss", "token_accuracy"] = Field(
        "loss", description="the checkpoint that is best by this figure on the validation split becomes the adapter"
    )
    early_stopping: EarlyStoppingSettings | None = Field(None, description="absent: every planned step is run")
    max_rows: PositiveInt | None = Field(None, description="measure on this many validation rows only (the same ones)")


class CheckpointSettings(Settings):
    """What a killed run continues from."""

    every_steps: PositiveInt | None = Field(
        None, description="steps between two checkpoints; absent: one at each validation measurement"
    )
    keep: PositiveInt = Field(2, description="newest checkpoints kept, besides the best one")


class LossSettings(Settings):
    """How the tokens of label values count. All other trained tokens are always plain cross entropy."""

    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a value token's target that is spread over the vocabulary "
        "(Szegedy et al. 2016, arXiv 1512.00567)",
    )
    focal_gamma: float = Field(
        0.0,
        ge=0,
        description="value tokens weigh (1 − p)^gamma: what is known already counts less; 2 is usual "
        "(Lin et al. 2017, arXiv 1708.02002)",
    )

    @property
    def is_plain(self) -> bool:
        """Whether all tokens are plain cross entropy."""
        return self.label_smoothing == 0 and self.focal_gamma == 0


class SamplingSettings(Settings):
    """Which rows an epoch shows, and how often."""

    strategy: Literal["natural", "balanced"] = Field(
        "natural", description="natural: every row once; balanced: each value of `field` equally often, with repeats"
    )
    field: str | None = Field(None, description="the schema field that `balanced` evens out")

    @model_validator(mode="after")
    def _has_field(self) -> SamplingSettings:
        if self.strategy == "balanced" and self.field is None:
            raise ValueError("strategy 'balanced' needs `field`, the schema field to even out, e.g. field: category")
        if self.strategy == "natural" and self.field is not None:
            raise ValueError(f"`field` ({self.field}) is only read by strategy 'balanced'; remove it or say balanced")
        return self


class TrainSettings(Settings):
    """One training run."""

    name: str | None = Field(None, description="the run's folder name; absent: <config file>-seed<seed>")
    base: str = Field("embedded", description="'embedded' (ships with the package), a hub id, or a model folder")
    data: str = Field(description="folder of a processed data set (`triage data prepare`)")
    seed: int = Field(0, ge=0, description="fixes adapter initialisation, row order, dropout and the kept subset")
    output: str = Field("runs", description="folder that holds the run folders")
    prompt: PromptSettings = PromptSettings.model_validate({})
    adapter: AdapterSettings = AdapterSettings.model_validate({})
    precision: Precision = Field(
        "auto", description="of the computation; trained weights are always float32. auto: bf16, fp16 or fp32 by device"
    )
    quantization: QuantizationSettings | None = Field(None, description="load the base in 4 or 8 bits (QLoRA)")
    optimizer: OptimizerSettings = OptimizerSettings.model_validate({})
    batch: BatchSettings = BatchSettings.model_validate({})
    epochs: float = Field(3.0, gt=0, description="passes over the training rows")
    max_steps: PositiveInt | None = Field(None, description="stop after this many optimizer steps, whatever `epochs`")
    evaluation: EvaluationSettings = EvaluationSettings.model_validate({})
    checkpoints: CheckpointSettings = CheckpointSettings.model_validate({})
    sampling: SamplingSettings = SamplingSettings.model_validate({})
    loss: LossSettings = LossSettings.model_validate({})
    class_weights: dict[str, Literal["balanced"] | dict[str, float]] = Field(
        {}, description="per schema field: 'balanced' (inverse frequency) or a weight per value, on its value tokens"
    )
    max_train_rows: PositiveInt | None = Field(None, description="train on this many rows only, drawn by `seed`")
    labels_alone_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training rows whose record is written without its free text, so that the run learns what "
        "`--fields labels` asks of it too",
    )
    gradient_checkpointing: bool = Field(False, description="compute activations twice: less memory, about 25 % slower")
    log_every_steps: PositiveInt = Field(5, description="steps between two training lines in metrics.jsonl")
    report_to: list[Literal["wandb", "mlflow"]] = Field(
        [], description="send the same figures there too; metrics.jsonl and TensorBoard files are always written"
    )
    hardware: HardwareSettings = HardwareSettings.model_validate({})

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or value in {".", ".."} or set(value) & set("/\\\0\n")):
            raise ValueError("a run's name becomes a folder name, so it cannot be empty or hold a slash")
        return value

    @field_validator("class_weights")
    @classmethod
    def _weights_are_positive(
        cls, value: dict[str, Literal["balanced"] | dict[str, float]]
    ) -> dict[str, Literal["balanced"] | dict[str, float]]:
        for field, weights in value.items():
            for name, weight in weights.items() if isinstance(weights, dict) else ():
                if not 0 < weight < float("inf"):
                    raise ValueError(f"the weight of {field}={name} must be a positive number, got {weight}")
        return value

    @property
    def run_name(self) -> str:
        """Name of the run folder: as given, else from method and seed."""
        return self.name or f"{self.adapter.method}-seed{self.seed}"

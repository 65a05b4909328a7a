"""A pipeline as a person writes it: from an export to a report on several methods, each stage one or more Slurm jobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.settings import Settings
from triagekit.sweep.choice import members_of, rate_choices
from triagekit.sweep.settings import Member, SweepSettings

BEST = "best"


class PrepareStage(Settings):
    """`triage data prepare`."""

    config: str | None = Field(None, description="a YAML of configs/data: name or path")
    source: str | None = Field(None, description="the export; absent: what the config says")
    schema_name: str | None = Field(None, alias="schema", description="schema name or path; absent: the config's")
    out: str = Field(description="the processed data folder, from which every member trains")
    overrides: list[str] = Field([], description="key=value words, e.g. [split.seed=7]")

    @model_validator(mode="after")
    def _is_enough(self) -> PrepareStage:
        if self.config is None and (self.source is None or self.schema_name is None):
            raise ValueError("give a config (a YAML of configs/data), or both source and schema")
        return self

    def words(self) -> list[str]:
        """What follows `triage`."""
        words = ["data", "prepare", *([self.config] if self.config else []), *self.overrides, "--out", self.out]
        for option, value in (("--source", self.source), ("--schema", self.schema_name)):
            words += [option, value] if value is not None else []
        return words


class EvaluateStage(Settings):
    """`triage evaluate`, once for every member."""

    split: str = Field("test", description="train, val or test")
    words: list[str] = Field([], description="further words of `triage evaluate`, e.g. [--free-sample, '0']")


class ScoreStage(Settings):
    """`triage score` with the adapter of one member."""

    archive: str = Field(description="file or folder with tickets")
    out: str = Field(description="folder for the parts and the manifest")
    member: str = Field(BEST, description="a member's name, or best: the lowest loss on the validation split")
    config: str = Field("default", description="a YAML of configs/score: name or path")
    overrides: list[str] = Field([], description="key=value words, e.g. [auto_threshold=0.9]")
    nodes: int | None = Field(None, ge=1, description="nodes of one Ray cluster; absent: the site's")


class CompareStage(Settings):
    """`triage compare` over the members that were evaluated."""

    out: str | None = Field(None, description="the HTML report; absent: report.html in the pipeline's folder")
    title: str | None = Field(None, description="its heading; absent: the pipeline's name")
    words: list[str] = Field([], description="further words of `triage compare`, e.g. [--baselines, none]")


class PipelineSettings(Settings):
    """prepare → train → evaluate → score → compare. Stages that are left out are not run."""

    name: str = Field(description="the pipeline's folder below `output`, which holds the member runs too")
    output: str = Field("runs", description="folder that holds the pipeline's folder")
    prepare: PrepareStage | None = Field(None, description="absent: the data named in the train config is there")
    train: SweepSettings = Field(description="a sweep, without name and output")
    evaluate: EvaluateStage = EvaluateStage.model_validate({})
    score: ScoreStage | None = Field(None, description="absent: no archive is scored")
    compare: CompareStage | None = Field(CompareStage.model_validate({}), description="null: no report")

    @model_validator(mode="before")
    @classmethod
    def _sweep_takes_its_place(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("train"), dict):
            place = {"name": data.get("name"), "output": data.get("output", "runs")}
            data = {**data, "train": {**place, **data["train"]}}
        return data

    @model_validator(mode="after")
    def _is_one_place(self) -> PipelineSettings:
        if (self.train.name, self.train.output) != (self.name, self.output):
            raise ValueError("train takes name and output of the pipeline; leave them out there")
        return self

    @property
    def folder(self) -> Path:
        """Where the pipeline's own files and its members' run folders are."""
        return Path(self.output) / self.name

    @property
    def report(self) -> Path:
        """The HTML report."""
        given = self.compare.out if self.compare else None
        return Path(given) if given else self.folder / "report.html"

    @property
    def sweep(self) -> SweepSettings:
        """The sweep, trained on what `prepare` writes where that is a stage."""
        if self.prepare is None:
            return self.train
        return self.train.model_copy(update={"overrides": [*self.train.overrides, f"data={self.prepare.out}"]})

    def members(self) -> tuple[Member, ...]:
        """The runs. Raises ProblemsError where one cannot be run, or the one to score with is none of them."""
        members = members_of(self.sweep)
        if rate_choices(self.sweep):
            raise ProblemsError(
                f"Pipeline '{self.name}' cannot be run:",
                [
                    Problem(
                        "train.learning_rates",
                        "a pipeline submits all members at once, but rates are chosen when the first seed's are finished.",
                        "Take `triage submit sweep`, twice; or name one rate a method.",
                    )
                ],
            )
        names = [member.name for member in members]
        if self.score is not None and self.score.member not in [BEST, *names]:
            hint = did_you_mean(self.score.member, [BEST, *names])
            raise ProblemsError(
                f"Pipeline '{self.name}' cannot be run:",
                [Problem("score.member", f"no member '{self.score.member}'.", hint)],
            )
        return members

"""A pipeline in the queue: each stage waits for what it needs, and what failed stops only what depends on it.

prepare ─afterok→ train (array) ─aftercorr→ evaluate (array) ─┬─→ score
                                                              └─afterany→ compare, which takes what was finished

The state is what lies in the folders (manifest.json, summary.json, eval/…/metrics.json): submitting the same pipeline
again goes on with what is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from triagekit.cluster.job_folder import next_job_folder
from triagekit.cluster.job_scripts import command_script, job_options, place_options, preamble, srun_words
from triagekit.cluster.pipeline_settings import BEST, PipelineSettings
from triagekit.cluster.ray_script import load_score_settings, score_script, score_words
from triagekit.cluster.sbatch_script import SbatchScript
from triagekit.cluster.sites import SiteSettings
from triagekit.cluster.submit import SubmittedJob, jobs_of, submit_job
from triagekit.cluster.sweep import (
    MEMBERS_FILE,
    SweepSubmission,
    id_or_name,
    later_folder,
    member_list,
    saying_after,
    submit_sweep,
)
from triagekit.errors import TriageError
from triagekit.files.atomic import write_text
from triagekit.files.resources import find_config
from triagekit.settings import load_settings
from triagekit.sweep.settings import Member
from triagekit.training.run_folder import RunFolder

SETTINGS_FILE = "pipeline.yaml"


@dataclass(frozen=True)
class PipelineSubmission:
    """The jobs in the order of their stages, and what was there already."""

    jobs: tuple[SubmittedJob, ...]
    done: tuple[str, ...]
    notes: tuple[str, ...]


def load_pipeline(name_or_path: str, overrides: Sequence[str] = ()) -> PipelineSettings:
    """Settings of a shipped pipeline or a YAML file, with `key=value` overrides."""
    return load_settings(PipelineSettings, find_config("pipeline", name_or_path), overrides)


def is_evaluated(run: Path, split: str) -> bool:
    """Whether the run was measured on the split."""
    return (RunFolder(run).evaluation(split) / "metrics.json").is_file()


def submit_pipeline(
    settings: PipelineSettings,
    site: SiteSettings,
    *,
    rung: str,
    nodes: int = 1,
    passed_over: Sequence[str] = (),
    dry_run: bool = False,
    max_array_size: int | None = None,
) -> PipelineSubmission:
    """Submit every stage that is not done, each depending on the ones before it.

    Raises ProblemsError for a pipeline that cannot be run, TriageError where it is in the queue already or done.
    """
    members = settings.members()
    if not dry_run and (queued := jobs_of(settings.folder)):
        shown = ", ".join(sorted({f"{job.array_job_id} ({job.name}, {job.state.lower()})" for job in queued}))
        raise TriageError(
            f"{settings.folder} has jobs in the queue: {shown}. They go on by themselves. To begin anew: "
            f"triage jobs cancel {settings.folder}"
        )
    if not dry_run:
        write_text(settings.folder / SETTINGS_FILE, to_yaml_of(settings))
    stages = _Stages(settings, site, members, dry_run)
    stages.prepare()
    stages.train(rung, nodes, passed_over, max_array_size)
    stages.evaluate()
    stages.score()
    stages.compare()
    if not stages.jobs:
        raise TriageError(f"Pipeline '{settings.name}' is done: {settings.report}. Nothing to submit.")
    if site.requeue == "successor":
        stages.notes.append(
            f"Site {site.name} continues a member that is cut off in another job, for which later stages do not wait: "
            "submit the pipeline again when the members are finished."
        )
    return PipelineSubmission(tuple(stages.jobs), tuple(stages.done), tuple(stages.notes))


def to_yaml_of(settings: PipelineSettings) -> str:
    """The settings as resolved, in the form that is read back."""
    import yaml

    data = settings.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


class _Stages:
    """Submits one stage after the other, remembering what the next ones wait for."""

    def __init__(
        self, settings: PipelineSettings, site: SiteSettings, members: Sequence[Member], dry_run: bool
    ) -> None:
        self.jobs: list[SubmittedJob] = []
        self.done: list[str] = []
        self.notes: list[str] = []
        self._settings = settings
        self._site = site
        self._members = members
        self._dry_run = dry_run
        self._prepare: SubmittedJob | None = None
        self._trained: SweepSubmission | None = None
        self._evaluations: dict[str, str] = {}
        self._evaluation_jobs: list[SubmittedJob] = []
        self._score: SubmittedJob | None = None

    def _submit(
        self, kind: str, make: Callable[[Path], SbatchScript], after: str | None, files: dict[str, str] | None = None
    ) -> SubmittedJob:
        folder = next_job_folder(self._settings.folder, kind, dry_run=self._dry_run)
        if self._dry_run:
            folder = later_folder(folder, len(self.jobs))
        script = saying_after(make(folder), after)
        job = submit_job(script, folder, kind, self._site, dependency=after, dry_run=self._dry_run, files=files)
        self.jobs.append(job)
        return job

    def prepare(self) -> None:
        """The data set, unless its manifest, written last, is there."""
        stage = self._settings.prepare
        if stage is None:
            return
        if (Path(stage.out) / "manifest.json").is_file():
            self.done.append(f"prepare: {stage.out}")
            return
        self._prepare = self._submit("prepare", lambda folder: self._command("prepare", stage.words(), folder), None)

    def train(self, rung: str, nodes: int, passed_over: Sequence[str], max_array_size: int | None) -> None:
        """The members that are not finished, as a sweep."""
        finished = [member for member in self._members if RunFolder(member.run).is_finished]
        self.done += [f"train: {member.name}" for member in finished]
        if len(finished) == len(self._members):
            return
        self._trained = submit_sweep(
            self._settings.sweep,
            self._site,
            rung=rung,
            nodes=nodes,
            passed_over=passed_over,
            dependency=f"afterok:{id_or_name(self._prepare)}" if self._prepare else None,
            dry_run=self._dry_run,
            max_array_size=max_array_size,
            named_before=len(self.jobs),
        )
        self.jobs += self._trained.jobs

    def evaluate(self) -> None:
        """Each member as soon as it is trained; those that were trained before at once."""
        split = self._settings.evaluate.split
        trained_now = self._trained.submitted if self._trained else ()
        for job, members in zip(self._trained.jobs if self._trained else (), trained_now, strict=True):
            # One array beside the other: element n waits for element n.
            self._evaluate(members, f"aftercorr:{id_or_name(job)}")
        names = {member.name for members in trained_now for member in members}
        rest = [member for member in self._members if member.name not in names]
        evaluated = [member for member in rest if is_evaluated(member.run, split)]
        self.done += [f"evaluate: {member.name}" for member in evaluated]
        missing = [member for member in rest if member not in evaluated]
        if missing:
            self._evaluate(missing, None)

    def _evaluate(self, members: Sequence[Member], after: str | None) -> None:
        files = {MEMBERS_FILE: member_list(members)}
        job = self._submit("evaluate", lambda folder: self._evaluate_script(members, folder), after, files)
        self._evaluation_jobs.append(job)
        self._evaluations |= {member.name: f"{id_or_name(job)}_{number}" for number, member in enumerate(members)}

    def score(self) -> None:
        """The archive, with the adapter of one member."""
        stage = self._settings.score
        if stage is None:
            return
        if (Path(stage.out) / "manifest.json").is_file():
            self.done.append(f"score: {stage.out}")
            return
        if stage.member == BEST:
            after = self._after_evaluations()
        else:
            after = f"afterok:{self._evaluations[stage.member]}" if stage.member in self._evaluations else None
        self._score = self._submit("score", self._score_script, after)

    def _score_script(self, folder: Path) -> SbatchScript:
        stage = self._settings.score
        assert stage is not None
        chosen = "RUN_OF_THE_CHOSEN_MEMBER"
        words = [f"archive={stage.archive}", f"out={stage.out}", f"run={chosen}"]
        score = load_score_settings(stage.config, [*stage.overrides, *words])
        config = find_config("score", stage.config).resolve()
        script = score_script(
            [*score_words(score, config), *stage.overrides],
            name=f"{self._settings.name}-score",
            folder=folder,
            site=self._site,
            nodes=stage.nodes,
        )
        # Which member is best is only known when the job starts.
        choose = [
            "",
            "# The member to score with.",
            f'chosen="$("$PYTHON" -m triagekit.cluster.pipeline_report choose {shlex.quote(str(self._settings.folder))})"',
        ]
        body = list(script.body)
        start = body.index("code=0")
        body[start:start] = choose
        body = [line.replace(f"--run {chosen}", '--run "$chosen"') for line in body]
        return SbatchScript(script.options, body, script.title, script.reasons, script.shell)

    def compare(self) -> None:
        """The report over whatever was evaluated, and which members are missing and why."""
        if self._settings.compare is None:
            return
        if not self.jobs and self._settings.report.is_file():
            self.done.append(f"compare: {self._settings.report}")
            return
        after = self._after_evaluations(*([self._score] if self._score else []))

        def script(folder: Path) -> SbatchScript:
            return _module_script(
                ["-m", "triagekit.cluster.pipeline_report", "compare", str(self._settings.folder)],
                self._command("compare", ["compare"], folder),
                f"report on pipeline {self._settings.name}",
            )

        self._submit("compare", script, after)

    def _after_evaluations(self, *others: SubmittedJob) -> str | None:
        waited = [*self._evaluation_jobs, *others]
        return f"afterany:{':'.join(id_or_name(job) for job in waited)}" if waited else None

    def _command(self, kind: str, words: Sequence[str], folder: Path) -> SbatchScript:
        return command_script(
            words,
            name=f"{self._settings.name}-{kind}",
            folder=folder,
            site=self._site,
            place=self._site.job_place("prepare" if kind == "prepare" else "compare"),
        )

    def _evaluate_script(self, members: Sequence[Member], folder: Path) -> SbatchScript:
        stage, place = self._settings.evaluate, self._site.job_place("evaluate")
        cap = min(self._settings.sweep.concurrency or self._site.max_array_tasks, len(members))
        options = {
            **job_options(f"{self._settings.name}-evaluate", folder, self._site, directory=Path.cwd(), array=True),
            **place_options(place, self._site),
            "array": f"0-{len(members) - 1}%{cap}",
        }
        del options["signal"]
        words = shlex.join(["--split", stage.split, *stage.words])
        return SbatchScript(
            options=options,
            body=[
                *preamble(self._site),
                "",
                "# Member number SLURM_ARRAY_TASK_ID of these.",
                "runs=(",
                *(f"  {shlex.quote(str(member.run))}" for member in members),
                ")",
                f'exec {srun_words()} "$PYTHON" -m triagekit evaluate "${{runs[$SLURM_ARRAY_TASK_ID]}}" {words}',
            ],
            title=[f"triage evaluate: {len(members)} runs of pipeline {self._settings.name}, {cap} at a time"],
            reasons={"array": "first-last%at once; element n waits for element n of the training array"},
            shell=self._site.shell,
        )


def _module_script(words: Sequence[str], script: SbatchScript, title: str) -> SbatchScript:
    body = [*script.body[:-1], f'exec {srun_words()} "$PYTHON" {shlex.join(words)}']
    return SbatchScript(script.options, body, [title, *script.title[1:]], script.reasons, script.shell)

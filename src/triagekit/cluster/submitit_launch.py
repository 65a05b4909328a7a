"""What the launchers in `jobs/` do: one run, a sweep, an archive or a pipeline through submitit, on Slurm or here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from triagekit.cluster.job_folder import JobFolder, next_job_folder
from triagekit.cluster.job_scripts import PASSED_OVER, rung_words, train_script
from triagekit.cluster.pipeline import SETTINGS_FILE, is_evaluated, to_yaml_of
from triagekit.cluster.pipeline_settings import PipelineSettings
from triagekit.cluster.ray_script import KIND as SCORE
from triagekit.cluster.ray_script import TOKEN_LINES, refuse_second_score, score_words
from triagekit.cluster.sbatch_script import SbatchScript, job_name
from triagekit.cluster.site_rungs import ChosenRung, SubmitOptions, choose_rung, site_ladder
from triagekit.cluster.sites import JobKind, RungPlace, SiteSettings
from triagekit.cluster.submitit_jobs import CommandJob, make_executor, slurm_parameters, submit_all
from triagekit.cluster.sweep import MEMBERS_FILE, member_list, members_under_way
from triagekit.errors import TriageError
from triagekit.files.atomic import write_text
from triagekit.hardware.ladder import Rung
from triagekit.settings import to_yaml
from triagekit.sweep.choice import members_of
from triagekit.sweep.settings import Member, SweepSettings, sweep_folder
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

Notes = Callable[[str], None]
MODULE = ["-m", "triagekit"]


@dataclass(frozen=True)
class Launched:
    """Jobs of one kind: their submitit handles, in the order of `names`."""

    kind: str
    folder: Path
    names: tuple[str, ...]
    handles: tuple[Any, ...]

    @property
    def job_id(self) -> str:
        """The job's number; of an array, without the member's."""
        return str(self.handles[0].job_id).partition("_")[0]


@dataclass(frozen=True)
class Launcher:
    """Where jobs go: to Slurm with a site's profile, or (site None) to processes on this machine."""

    site: SiteSettings | None
    notes: Notes
    options: SubmitOptions

    def rung_for(self, runs: Sequence[TrainSettings], owner: Path) -> ChosenRung | None:
        """The rung that all `runs` take; None on this machine, where each run chooses its own."""
        site = self.site
        if site is None:
            return None
        folder = next_job_folder(owner, "train", dry_run=True)

        def script_for(rung: Rung) -> SbatchScript:
            return train_script(
                run=owner, config=folder / "config.yaml", folder=folder, site=site, rung=rung.name, nodes=rung.nodes
            )

        return choose_rung(runs, site, self.options, script_for, self.notes)

    def launch(
        self,
        kind: str,
        owner: Path,
        commands: Mapping[str, Sequence[str]],
        place: RungPlace | None,
        *,
        folder: Path | None = None,
        nodes: int = 1,
        at_once: int | None = None,
        after: str | None = None,
        setup: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> Launched:
        """Submit `commands` (name → words after `python`), several as one array, and record them in `owner`/jobs."""
        folder = folder or next_job_folder(owner, kind)
        patience = max(10.0, (self.site.signal_seconds if self.site else 60) - 15.0)
        jobs = [CommandJob(list(words), dict(environment or {}), patience) for words in commands.values()]
        parameters: dict[str, Any] = {}
        if self.site is not None and place is not None:
            parameters = slurm_parameters(
                self.site,
                place,
                name=job_name(f"{owner.name}-{kind}" if kind not in ("train", "sweep") else owner.name),
                nodes=nodes,
                at_once=at_once,
                dependency=after,
                setup=setup,
            )
        executor = make_executor(folder, self.site, parameters)
        handles = submit_all(executor, jobs)
        done = Launched(kind, folder, tuple(commands), tuple(handles))
        record = {
            "job_id": done.job_id if self.site else None,
            "kind": kind,
            "launcher": "submitit",
            "site": self.site.model_dump(mode="json") if self.site else None,
            "dependency": after,
            "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
            **(card or {}),
        }
        JobFolder(folder).write(record)
        return done

    def train(self, settings: TrainSettings) -> Launched:
        """One run. Raises TriageError for one that is finished."""
        settings = settings.model_copy(update={"name": settings.run_name})
        member = Member(settings.run_name, settings)
        if RunFolder(member.run).is_finished:
            raise TriageError(f"{member.run} is finished: there is nothing to launch. To train again, give --name.")
        return self._train("train", member.run, [member], None, None)

    def sweep(self, sweep: SweepSettings, after: str | None = None) -> Launched | None:
        """The members that are neither finished nor in the queue; None where there are none."""
        folder = sweep_folder(sweep)
        busy = members_under_way(folder) if self.site else set()
        members = [member for member in members_of(sweep) if member.name not in busy]
        members = [member for member in members if not RunFolder(member.run).is_finished]
        if not members:
            return None
        cap = sweep.concurrency or (self.site.max_array_tasks if self.site else None)
        return self._train("sweep", folder, members, cap, after)

    def _train(self, kind: str, owner: Path, members: Sequence[Member], cap: int | None, after: str | None) -> Launched:
        choice = self.rung_for([member.settings for member in members], owner)
        for member in members:
            RunFolder.create(member.run, member.settings.model_dump(mode="json"), to_yaml(member.settings))
        folder = next_job_folder(owner, kind)
        words: dict[str, list[str]] = {}
        for member in members:
            config = folder / ("config.yaml" if kind == "train" else f"members/{member.name}.yaml")
            write_text(config, to_yaml(member.settings))
            words[member.name] = [*MODULE, "train", str(config)]
        if kind == "sweep":
            write_text(folder / MEMBERS_FILE, member_list(members))
        if choice is None or self.site is None:
            return self.launch(kind, owner, words, None, folder=folder)
        if self.site.changes_ladder:
            write_text(folder / "ladder.yaml", to_yaml(site_ladder(self.site, members[0].settings.hardware.ladder)))
        rung = rung_words(choice.rung.name, folder, self.site)
        return self.launch(
            kind,
            owner,
            {name: [*own, *rung] for name, own in words.items()},
            self.site.place(choice.rung.name),
            folder=folder,
            nodes=choice.rung.nodes,
            at_once=cap,
            after=after,
            environment={PASSED_OVER: json.dumps(list(choice.passed_over), ensure_ascii=False)},
            card={"rung": choice.rung.name, "passed_over": list(choice.passed_over)},
        )

    def score(self, settings: Any, nodes: int | None = None, runs: Sequence[str] = ()) -> Launched:
        """An archive; on several nodes of a site, with one Ray cluster over them.

        `runs`: several that go over it in one pass, instead of the settings' own.
        """
        out = Path(settings.out).expanduser()
        refuse_second_score(settings, runs, ask_slurm=self.site is not None)
        folder = next_job_folder(out, SCORE)
        write_text(folder / "config.yaml", to_yaml(settings))
        place, count = self.score_place(nodes)
        module = ["-m", "triagekit.cluster.ray_cluster", "--"] if count > 1 else [*MODULE, "score"]
        words = {SCORE: [*module, *score_words(settings, folder / "config.yaml", runs)]}
        return self.launch(SCORE, out, words, place, folder=folder, nodes=count, setup=TOKEN_LINES if count > 1 else ())

    def score_place(self, nodes: int | None) -> tuple[RungPlace | None, int]:
        """Where an archive job runs, and on how many nodes."""
        if self.site is None:
            return None, 1
        place = self.site.job_place("score")
        count = nodes or place.nodes or 1
        return place.model_copy(update={"nodes": count}), count

    def place(self, kind: JobKind) -> RungPlace | None:
        """Where jobs of a kind run at the site."""
        return self.site.job_place(kind) if self.site else None


def launch_pipeline(launcher: Launcher, settings: PipelineSettings, wait: Callable[[Launched], None]) -> list[Launched]:
    """Every stage that is not done. On Slurm all at once, each depending on the ones before; here one after the other,
    `wait` being called between two."""
    members = settings.members()
    folder = settings.folder
    write_text(folder / SETTINGS_FILE, to_yaml_of(settings))
    launched: list[Launched] = []
    local = launcher.site is None

    def add(stage: Launched | None) -> Launched | None:
        if stage is not None:
            launched.append(stage)
            if local:
                wait(stage)
        return stage

    def after(word: str, *stages: Launched | None) -> str | None:
        ids = [stage.job_id for stage in stages if stage is not None]
        return f"{word}:{':'.join(ids)}" if ids and not local else None

    prepared = trained = None
    stage = settings.prepare
    if stage is not None and not (Path(stage.out) / "manifest.json").is_file():
        words = {"prepare": [*MODULE, *stage.words()]}
        prepared = add(launcher.launch("prepare", folder, words, launcher.place("prepare")))
    trained = add(launcher.sweep(settings.sweep, after("afterok", prepared)))
    evaluations: list[Launched | None] = []
    split = settings.evaluate.split
    names = trained.names if trained else ()
    for group, dependency in (
        ([member for member in members if member.name in names], after("aftercorr", trained)),
        ([member for member in members if member.name not in names], None),
    ):
        todo = [
            member
            for member in group
            if not is_evaluated(member.run, split) and (not local or RunFolder(member.run).is_finished)
        ]
        if not todo:
            continue
        # An array of one has no number, so element by element it can only be waited for as a whole.
        dependency = dependency if len(names) > 1 or dependency is None else after("afterok", trained)
        own = next_job_folder(folder, "evaluate")
        write_text(own / MEMBERS_FILE, member_list(todo))
        words = {
            member.name: [*MODULE, "evaluate", str(member.run), "--split", split, *settings.evaluate.words]
            for member in todo
        }
        cap = settings.train.concurrency or (launcher.site.max_array_tasks if launcher.site else None)
        place = launcher.place("evaluate")
        evaluations.append(
            add(launcher.launch("evaluate", folder, words, place, folder=own, at_once=cap, after=dependency))
        )
    scored = None
    report = ["-m", "triagekit.cluster.pipeline_report"]
    if settings.score is not None and not (Path(settings.score.out) / "manifest.json").is_file():
        place, count = launcher.score_place(settings.score.nodes)
        words = {SCORE: [*report, "score", str(folder), *(["--cluster"] if count > 1 else [])]}
        setup = TOKEN_LINES if count > 1 else ()
        scored = add(
            launcher.launch(
                SCORE, folder, words, place, nodes=count, after=after("afterany", *evaluations), setup=setup
            )
        )
    if settings.compare is not None and (launched or not settings.report.is_file()):
        words = {"compare": [*report, "compare", str(folder)]}
        add(
            launcher.launch(
                "compare", folder, words, launcher.place("compare"), after=after("afterany", *evaluations, scored)
            )
        )
    return launched

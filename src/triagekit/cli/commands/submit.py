"""`triage submit train|sweep|evaluate|score|pipeline CONFIG --site SITE`: the work as Slurm jobs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.cli.scoring_options import add_runs, add_scoring_options

if TYPE_CHECKING:
    from triagekit.cluster.sites import SiteSettings
    from triagekit.cluster.start_times import RungStart
    from triagekit.cluster.submit import SubmittedJob

_POLICIES = """\
Which rung of the hardware ladder a job takes, of those that the site serves and the run fits on (triage plan):
  --policy best          the best one, however long it waits
  --policy soonest       the one that starts first
  --policy best-within   the best one that starts within --patience, else the one that starts first
  --rung NAME            this one
Slurm is asked when each would start (sbatch --test-only); where it gives no answer, the order of the rungs decides.
Words that begin with site. change the site's profile: site.account=nlp site.signal_seconds=300"""

_EXAMPLES = {
    "train": "triage submit train lora data=data/processed/mine seed=1 --site csf --policy best-within --patience 6h",
    "sweep": "triage submit sweep methods_by_seeds --site csf",
    "evaluate": "triage submit evaluate runs/lora-seed1 runs/hybrid-seed1 --site csf --split test",
    "score": "triage submit score default archive=export.parquet run=runs/lora-seed1 out=scores/2024 --site csf",
    "pipeline": "triage submit pipeline my_pipeline.yaml --site csf",
}
_SUMMARIES = {
    "train": "one run, on the best rung that is soon to be had",
    "sweep": "methods × seeds × ranks as one array with a cap",
    "evaluate": "measure runs on a split",
    "score": "a whole archive, over several nodes with Ray where the site says so",
    "pipeline": "prepare → train → evaluate → score → compare, each after what it needs",
}
_DIFFERENT_RUNGS = {"train", "sweep", "pipeline"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `triage submit` and its kinds."""
    parser.epilog = (
        f"{_POLICIES}\n\nExample: {_EXAMPLES['train']}\n         {_EXAMPLES['train']} --dry-run > job.sbatch"
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", dest="kind", required=True, parser_class=type(parser))
    for kind, summary in _SUMMARIES.items():
        own = kinds.add_parser(
            kind, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        own.epilog = (f"{_POLICIES}\n\n" if kind in _DIFFERENT_RUNGS else "") + f"Example: {_EXAMPLES[kind]}"
        if kind == "evaluate":
            own.add_argument("words", nargs="+", metavar="RUN", help="run folders, and site.key=value words")
            own.add_argument("--split", default="test", help="train, val or test (default: test)")
            own.add_argument("--limit", type=int, metavar="N", help="only the first so many tickets of the split")
            own.add_argument("--free-sample", type=int, metavar="N", help="see triage evaluate")
            own.add_argument("--data", help="the processed data folder, where it is not at the place the run names")
            own.add_argument("--calibrate", action="store_true", help="see triage evaluate")
            add_scoring_options(own)
        else:
            own.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of a shipped preset")
            own.add_argument("words", nargs="*", metavar="key=value", help="settings that replace those of CONFIG")
        own.add_argument("--site", required=True, help="name of a shipped site (triage site list), or a YAML file")
        if kind == "train":
            own.add_argument("--name", help="name of the run folder (default: <config>-seed<seed>)")
        if kind == "score":
            own.add_argument("--nodes", type=int, metavar="N", help="nodes of the Ray cluster (default: the site's)")
            add_runs(own)
        if kind in _DIFFERENT_RUNGS:
            own.add_argument("--policy", choices=["best", "soonest", "best-within"], help="default: the site's")
            own.add_argument("--patience", metavar="TIME", help="for best-within, e.g. 4h (default: the site's)")
            own.add_argument("--rung", metavar="NAME", help="take this rung, whatever the plan and Slurm say")
        if kind != "pipeline":
            own.add_argument("--after", metavar="ID[:ID]", help="start when these jobs have ended well (afterok)")
        own.add_argument("--dry-run", action="store_true", help="print the script; submit and write nothing")
        own.add_argument("--json", action="store_true", help="print what was submitted as JSON")
        own.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Submit, then print what was submitted and how its rung was chosen."""
    from triagekit.cluster.sites import load_site, split_overrides

    words, site_words = split_overrides(options.words)
    site = load_site(options.site, site_words)
    submit = {
        "train": _train,
        "sweep": _sweep,
        "evaluate": _evaluate,
        "score": _score,
        "pipeline": _pipeline,
    }[options.kind]
    return submit(options, words, site)


def _train(options: argparse.Namespace, words: list[str], site: SiteSettings) -> int:
    from triagekit.cluster.submit_train import submit_train
    from triagekit.training.train import load_train_settings

    settings = load_train_settings(options.config, words, options.name)
    done = submit_train(
        settings, site, _submit_options(options), _say, dependency=_dependency(options), given=options.config
    )
    return _report(options, [done.job], done.choice.answers, done.choice.passed_over)


def _sweep(options: argparse.Namespace, words: list[str], site: SiteSettings) -> int:
    from triagekit.cluster.submit_sweep import choose_rung_of_members
    from triagekit.cluster.sweep import submit_sweep
    from triagekit.sweep.choice import members_of
    from triagekit.sweep.settings import load_sweep, sweep_folder

    sweep = load_sweep(options.config, words)
    choice = choose_rung_of_members(members_of(sweep), sweep_folder(sweep), site, _submit_options(options), _say)
    done = submit_sweep(
        sweep,
        site,
        rung=choice.rung.name,
        nodes=choice.rung.nodes,
        passed_over=choice.passed_over,
        dependency=_dependency(options),
        dry_run=options.dry_run,
    )
    if done.finished:
        _say(f"finished already, so left out: {', '.join(done.finished)}")
    if done.under_way:
        _say(f"waiting or running already, so left out: {', '.join(done.under_way)}")
    return _report(options, done.jobs, choice.answers, choice.passed_over)


def _evaluate(options: argparse.Namespace, words: list[str], site: SiteSettings) -> int:
    from triagekit.cluster.submit_evaluate import submit_evaluate

    more = ["--split", options.split]
    fields = None if options.fields is None else ",".join(options.fields)
    for name, value in (
        ("limit", options.limit),
        ("free-sample", options.free_sample),
        ("data", options.data),
        ("fields", fields),
        ("precision", options.precision),
    ):
        more += [] if value is None else [f"--{name}", str(value)]
    more += ["--calibrate"] if options.calibrate else []
    job = submit_evaluate(
        [Path(word) for word in words], site, more, dependency=_dependency(options), dry_run=options.dry_run
    )
    return _report(options, [job])


def _score(options: argparse.Namespace, words: list[str], site: SiteSettings) -> int:
    from triagekit.cluster.ray_script import load_score_settings, submit_score

    runs = options.run_folders
    settings = load_score_settings(options.config, words, runs)
    job = submit_score(
        settings, site, runs=runs, nodes=options.nodes, dependency=_dependency(options), dry_run=options.dry_run
    )
    return _report(options, [job])


def _pipeline(options: argparse.Namespace, words: list[str], site: SiteSettings) -> int:
    from triagekit.cluster.pipeline import load_pipeline, submit_pipeline
    from triagekit.cluster.submit_sweep import choose_rung_of_members

    pipeline = load_pipeline(options.config, words)
    choice = choose_rung_of_members(pipeline.members(), pipeline.folder, site, _submit_options(options), _say)
    done = submit_pipeline(
        pipeline,
        site,
        rung=choice.rung.name,
        nodes=choice.rung.nodes,
        passed_over=choice.passed_over,
        dry_run=options.dry_run,
    )
    for text in (*(f"done already, so left out: {stage}" for stage in done.done), *done.notes):
        _say(text)
    return _report(options, done.jobs, choice.answers, choice.passed_over)


def _submit_options(options: argparse.Namespace) -> Any:
    from triagekit.cluster.site_rungs import SubmitOptions

    return SubmitOptions(options.policy, options.patience, options.rung, options.dry_run)


def _dependency(options: argparse.Namespace) -> str | None:
    return f"afterok:{options.after}" if options.after else None


def _report(
    options: argparse.Namespace,
    jobs: Sequence[SubmittedJob],
    answers: Sequence[RungStart] = (),
    passed_over: Sequence[str] = (),
) -> int:
    """Scripts of a dry run go to stdout and all else to stderr, so that `--dry-run > job.sbatch` is a script."""
    from triagekit.cli.output import print_json

    if options.json:
        rows = [_job_row(job, options.dry_run) for job in jobs]
        print_json({"jobs": rows, "starts": [answer.as_row() for answer in answers], "passed_over": list(passed_over)})
        return 0
    with contextlib.redirect_stdout(sys.stderr) if options.dry_run else contextlib.nullcontext():
        _print_starts(answers)
    for job in jobs:
        if options.dry_run:
            print(job.text, end="")
            continue
        after = f", after {job.dependency}" if job.dependency else ""
        print(f"Submitted job {job.job_id}: {job.script}{after}")
    if options.dry_run:
        _say(f"nothing was written or submitted; submitting stores what the job reads in {jobs[0].folder}/")
    else:
        print(f"See it: triage jobs.  Its log: {jobs[0].folder}/{jobs[0].job_id}*.log")
    return 0


def _job_row(job: SubmittedJob, dry_run: bool) -> dict[str, Any]:
    row = {
        "job_id": job.job_id,
        "kind": job.kind,
        "folder": str(job.folder),
        "script": str(job.script),
        "rung": job.rung,
        "dependency": job.dependency,
    }
    return {**row, "text": job.text} if dry_run else row


def _print_starts(answers: Sequence[RungStart]) -> None:
    from triagekit.cli.output import print_table
    from triagekit.cluster.durations import in_words

    rows = [
        (
            answer.rung,
            answer.partition,
            "–" if answer.start is None else answer.start.strftime("%a %d %b %H:%M"),
            "–" if answer.wait is None else in_words(answer.wait),
            "chosen" if answer.chosen else answer.why_not,
        )
        for answer in answers
    ]
    if rows:
        print_table("When each rung would start", ["rung", "partition", "start", "wait", ""], rows)


def _say(text: str) -> None:
    print(f"triage: {text}", file=sys.stderr)

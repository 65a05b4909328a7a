"""The batch scripts of single jobs, put together from a site, a place and the words of a `triage` command."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from triagekit import __version__
from triagekit.cluster.durations import parse_duration, slurm_time
from triagekit.cluster.sbatch_script import SbatchScript, file_pattern, job_name, shell_value
from triagekit.cluster.sites import RungPlace, SiteSettings

PASSED_OVER = "TRIAGEKIT_PASSED_OVER"
"""Variable with the rungs that were not chosen at submission, a JSON list of `rung: reason` lines."""

_PLAIN_PATH = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")

_REASONS = {
    "export": (
        "The environment of the submitting shell comes along (Slurm's default, said here because a site or\n"
        "SBATCH_EXPORT may change it): with NONE, srun starts its tasks without PATH on some sites.\n"
        "What the work depends on is set below and wins."
    ),
    "open-mode": "A requeued job goes on writing to the same log.",
    "requeue": "After preemption, a failed node or the time limit, the job goes back into the queue and continues.",
    "no-requeue": "This site forbids requeueing: a successor is queued before the work begins (see below).",
    "signal": (
        "The warning before the time limit, to the processes that srun started (no `B:`): they save a checkpoint."
    ),
}


def place_options(place: RungPlace, site: SiteSettings, *, nodes: int = 1) -> dict[str, str | None]:
    """sbatch options of a request: partition, gres, …, account."""
    given: dict[str, str | None] = {
        "account": site.account,
        "partition": place.partition,
        "gres": place.gres,
        "constraint": place.constraint,
        "qos": place.qos,
        "mem": place.memory,
        "time": None if place.time_limit is None else slurm_time(parse_duration(place.time_limit)),
        "cpus-per-task": None if place.cpus_per_task is None else str(place.cpus_per_task),
    }
    options = {key: value for key, value in given.items() if value is not None}
    options["nodes"] = str(place.nodes or nodes)
    options["ntasks-per-node"] = "1"
    extra = {key: None if value is None else str(value) for key, value in place.options.items()}
    return {**options, **extra}


def job_options(
    name: str, log_folder: Path, site: SiteSettings, *, directory: Path, array: bool = False
) -> dict[str, str | None]:
    """sbatch options that every job has: name, log, working directory, requeueing, the warning signal."""
    return {
        "job-name": job_name(name),
        "output": file_pattern(str(log_folder)) + ("/%A_%a.log" if array else "/%j.log"),
        "chdir": str(directory.absolute()),
        "open-mode": "append",
        "export": "ALL",
        "requeue" if site.requeue == "requeue" else "no-requeue": None,
        "signal": f"USR2@{site.signal_seconds}",
    }


def preamble(site: SiteSettings) -> list[str]:
    """Shell lines before the work: modules, activation, caches off $HOME, proxies, offline variables, `$PYTHON`."""
    lines = ["", 'export USER="${USER:-$(id -un)}"']
    if site.modules or site.before:
        lines += ["", "# Modules and activation scripts read variables that nobody set.", "set +u"]
        lines += [f"module load {shlex.quote(module)}" for module in site.modules]
        lines += [*site.before, "set -u"]
    lines += ["", f"PYTHON={shell_value(site.python or sys.executable)}"]
    lines += ["export PYTHONUNBUFFERED=1"]
    # A folder that is not writable would fail only after minutes in the queue and in the libraries.
    scratch = site.scratch or "${TMPDIR:-/tmp}/triagekit-$USER"
    cache = shell_value(site.cache or "$SCRATCH_FOLDER/huggingface")
    lines += [
        "",
        "# Temporary files on the node's own disk; caches on scratch: $HOME is small, and slow from many nodes.",
        f"export TMPDIR={shell_value(site.temporary)}",
        f"SCRATCH_FOLDER={shell_value(scratch)}",
        f"export HF_HOME={cache}",
        'export TRITON_CACHE_DIR="$SCRATCH_FOLDER/triton" TORCH_EXTENSIONS_DIR="$SCRATCH_FOLDER/torch_extensions"',
        'export TORCHINDUCTOR_CACHE_DIR="$SCRATCH_FOLDER/inductor" XDG_CACHE_HOME="$SCRATCH_FOLDER/cache"',
        'mkdir -p "$HF_HOME" "$TRITON_CACHE_DIR" "$TORCH_EXTENSIONS_DIR" "$TORCHINDUCTOR_CACHE_DIR" "$XDG_CACHE_HOME"',
    ]
    if site.proxies:
        lines += ["", "# The way out of a compute node.", *_exports(site.proxies)]
    if site.offline:
        lines += [
            "",
            "# Compute nodes look at no hub: what is needed was fetched on the login node.",
            "export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1",
        ]
    if site.environment:
        lines += ["", *_exports(site.environment)]
    return lines


def srun_words(*, nodes: int | str | None = None) -> str:
    """`srun …` for one task on each node of the allocation.

    `--export=ALL` and `--cpus-per-task` are said again: since Slurm 22.05 steps inherit neither from sbatch on all
    sites. A task that fails does not kill the others at once: they are saving the checkpoint.
    """
    where = f" --nodes={nodes}" if nodes is not None else ""
    return f'srun{where} --ntasks-per-node=1 --cpus-per-task="${{SLURM_CPUS_PER_TASK:-1}}" --export=ALL --kill-on-bad-exit=0'


def train_script(
    *,
    run: Path,
    config: Path,
    folder: Path,
    site: SiteSettings,
    rung: str,
    nodes: int = 1,
    passed_over: Sequence[str] = (),
    directory: Path | None = None,
    overrides: Sequence[str] = (),
) -> SbatchScript:
    """One training job: the run folder, the stored configuration, the job folder (logs), the rung and its place.

    Paths are written as given and read from `directory` (default: the current one).
    """
    work_words = ["-m", "triagekit", "train", str(config), *overrides, *rung_words(rung, folder, site)]
    return SbatchScript(
        options={
            **job_options(run.name, folder, site, directory=directory or Path.cwd()),
            **place_options(site.place(rung), site, nodes=nodes),
        },
        body=[
            *preamble(site),
            *passed_over_lines(passed_over),
            *attempts(shlex.quote(str(run)), folder / "job.sbatch", site, work_words),
        ],
        title=[f"triage train {config}: run {run}, rung {rung} at site {site.name}", _made_by()],
        reasons=_REASONS,
        shell=site.shell,
    )


def sweep_script(
    *,
    name: str,
    members: Sequence[tuple[Path, Path]],
    folder: Path,
    site: SiteSettings,
    rung: str,
    nodes: int = 1,
    at_once: int | None = None,
    passed_over: Sequence[str] = (),
    directory: Path | None = None,
) -> SbatchScript:
    """Many training runs as one array: `members` are (run folder, stored configuration), `at_once` of them at a time."""
    cap = at_once or site.max_array_tasks
    return SbatchScript(
        options={
            **job_options(name, folder, site, directory=directory or Path.cwd(), array=True),
            **place_options(site.place(rung), site, nodes=nodes),
            "array": f"0-{len(members) - 1}%{cap}",
        },
        body=[
            *preamble(site),
            *passed_over_lines(passed_over),
            "",
            "# Member number SLURM_ARRAY_TASK_ID of these.",
            "runs=(",
            *(f"  {shlex.quote(str(run))}" for run, _ in members),
            ")",
            "configs=(",
            *(f"  {shlex.quote(str(config))}" for _, config in members),
            ")",
            'run="${runs[$SLURM_ARRAY_TASK_ID]}"',
            'config="${configs[$SLURM_ARRAY_TASK_ID]}"',
            *attempts(
                '"$run"',
                folder / "job.sbatch",
                site,
                ["-m", "triagekit", "train"],
                raw=f'"$config" {shlex.join(rung_words(rung, folder, site))}',
            ),
        ],
        title=[
            f"triage sweep {name}: {len(members)} runs, {cap} at a time, rung {rung} at site {site.name}",
            _made_by(),
        ],
        reasons={**_REASONS, "array": "first-last%at once"},
        shell=site.shell,
    )


def command_script(
    words: Sequence[str],
    *,
    name: str,
    folder: Path,
    site: SiteSettings,
    place: RungPlace,
    nodes: int = 1,
    directory: Path | None = None,
    title: str | None = None,
) -> SbatchScript:
    """A job that runs one `triage` command which goes on where it was when started again (prepare, evaluate, compare)."""
    options = {
        **job_options(name, folder, site, directory=directory or Path.cwd()),
        **place_options(place, site, nodes=nodes),
    }
    del options["signal"]
    return SbatchScript(
        options=options,
        body=[*preamble(site), "", f'exec {srun_words()} "$PYTHON" {shlex.join(["-m", "triagekit", *words])}'],
        title=[title or f"triage {shlex.join(words)}", _made_by()],
        reasons={**_REASONS, "requeue": "After preemption or a failed node, the same command goes on where it was."},
        shell=site.shell,
    )


def rung_words(rung: str, folder: Path, site: SiteSettings) -> list[str]:
    """The words of `triage train` that name the rung, and the ladder stored with the job where the site changes it."""
    words = [f"hardware.rung={rung}"]
    if site.changes_ladder:
        path = str(folder / "ladder.yaml")
        # The value is read as YAML: a path with blanks, quotes or a colon has to be written as a YAML string.
        words.append(f"hardware.ladder={path if _PLAIN_PATH.fullmatch(path) else json.dumps(path, ensure_ascii=False)}")
    return words


def evaluate_script(
    runs: Sequence[Path], *, folder: Path, site: SiteSettings, words: Sequence[str] = (), directory: Path | None = None
) -> SbatchScript:
    """Measure runs on a split; `words` are further words of `triage evaluate`."""
    return command_script(
        ["evaluate", *map(str, runs), *words],
        name=f"evaluate-{runs[0].name}",
        folder=folder,
        site=site,
        place=site.job_place("evaluate"),
        directory=directory,
    )


def attempts(run: str, script: Path, site: SiteSettings, work: Sequence[str], raw: str = "") -> list[str]:
    """Begin an attempt, do the work in one srun step, end the attempt: the core of a job that survives.

    `run` is the shell word of the run folder, `work` is quoted, `raw` follows as it is. See cluster/attempt.py.
    """
    begin = [f"--run={run}"]
    if site.requeue == "successor":
        begin += ["--successor", f"--script={shlex.quote(str(script))}"]
    begin.append(f"--max-restarts={site.max_restarts}")
    if site.max_walltime_seconds is not None:
        begin.append(f"--max-walltime={slurm_time(site.max_walltime_seconds)}")
    command = f'"$PYTHON" {shlex.join(work)}{" " + raw if raw else ""}'
    return [
        "",
        "# The warning is for the ranks alone; where Slurm sends it to this shell too, it must not end it.",
        "trap '' USR2",
        'export TRIAGEKIT_ATTEMPT="${SLURM_JOB_ID}.${SLURM_RESTART_COUNT:-0}"',
        "begin=0",
        f'"$PYTHON" -m triagekit.cluster.attempt begin {" ".join(begin)} \\\n    || begin=$?',
        'if [ "$begin" -eq 10 ]; then exit 0; fi    # nothing to do: the run is finished, or its chain was cancelled',
        'if [ "$begin" -ne 0 ]; then exit "$begin"; fi',
        "# When Slurm ends the job, the last line is still reached: it says how this attempt ended, and requeues.",
        "trap : TERM",
        "code=0",
        f"{srun_words()} \\\n    {command} || code=$?",
        f'exec "$PYTHON" -m triagekit.cluster.attempt end --run={run} --code="$code"',
    ]


def passed_over_lines(passed_over: Sequence[str]) -> list[str]:
    """Shell lines that hand on why better rungs were not chosen."""
    if not passed_over:
        return []
    text = json.dumps(list(passed_over), ensure_ascii=False)
    return [
        "",
        "# Recorded with the run: better rungs, and why they were not chosen.",
        f"export {PASSED_OVER}={shlex.quote(text)}",
    ]


def _exports(variables: Mapping[str, str | int]) -> list[str]:
    return [f"export {name}={shell_value(str(variables[name]))}" for name in sorted(variables)]


def _made_by() -> str:
    return f"Written by triagekit {__version__}; it can be submitted again as it is: sbatch THIS_FILE"

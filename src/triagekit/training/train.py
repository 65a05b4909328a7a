"""One call = one run: begun, continued or found finished, whatever happened to it before."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.files.resources import find_config
from triagekit.progress import Progress, SilentProgress
from triagekit.settings import load_settings, to_yaml
from triagekit.training.disk import disk_advice
from triagekit.training.ranks import Ranks, ranks_from_environment
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings
from triagekit.training.stopping import StopRequest, TrainingInterrupted
from triagekit.training.tracking import check_trackers, start_trackers

if TYPE_CHECKING:
    from triagekit.data.dataset import ProcessedDataset

Notes = Callable[[str], None]


def load_train_settings(name_or_path: str, overrides: list[str], name: str | None = None) -> TrainSettings:
    """Settings of a shipped preset (`lora`) or a YAML file, with `key=value` overrides.

    The run is called `name`, else what the settings say, else `<file>-seed<seed>`. Light: no torch.
    """
    path = find_config("train", name_or_path)
    named = [*overrides, f"name={json.dumps(name)}"] if name is not None else overrides
    settings = load_settings(TrainSettings, path, named)
    return settings if settings.name else settings.model_copy(update={"name": f"{path.stem}-seed{settings.seed}"})


def train(settings: TrainSettings, progress: Progress | None = None, notes: Notes | None = None) -> RunFolder:
    """Fine-tune by `settings` into `<output>/<name>/`; after a kill, the same call goes on where the run was.

    In a process that torchrun or accelerate launch has started, this is one of the run's processes; only the first
    writes files, uses `progress` and `notes`. The rung in force (environment variable TRIAGEKIT_RUNG) changes how the
    run is computed, but not which run it is: the next start may be on another one.
    Returns the finished run; a run that is finished already is returned at once. `notes` is told what a person should
    know (where it goes on, what was removed, how many tickets were cut).
    Raises TrainingInterrupted when a signal ended it with a checkpoint on disk; TriageError for what the user can
    mend, among them a folder that holds a run with other settings and a full disk.
    """
    ranks = ranks_from_environment()
    tell = notes if notes and ranks.main else lambda text: None
    bar = progress if progress and ranks.main else SilentProgress()
    place = Path(settings.output) / settings.run_name
    folder = RunFolder(place)
    if ranks.main:
        folder = RunFolder.create(place, settings.model_dump(mode="json"), to_yaml(settings))
    if folder.is_finished:
        tell(f"{folder.folder} is already finished.")
        return folder
    # Before the imports, which take their time: a signal must not be lost.
    stop = StopRequest(patient=ranks.size > 1)
    with stop, folder.lock() if ranks.main else contextlib.nullcontext(), disk_advice(place):
        from triagekit.data.dataset import ProcessedDataset

        if ranks.main:
            folder.stopped.unlink(missing_ok=True)
        effective = effective_settings(settings, ranks)
        dataset = ProcessedDataset.open(settings.data)
        check_input(effective, dataset)
        try:
            _run(effective, folder, dataset, ranks, stop, bar, tell)
        except TrainingInterrupted as interruption:
            if ranks.main:
                folder.write_stopped(interruption.signal_number, interruption.step, interruption.steps)
            raise
    return folder


def effective_settings(settings: TrainSettings, ranks: Ranks) -> TrainSettings:
    """The settings as they are computed: by the rung in force, and with the effective batch shared by all processes.

    Raises TriageError when the processes cannot share the effective batch.
    """
    from triagekit.training.rungs import apply_rung, micro_batch

    if ranks.rung is not None:
        return apply_rung(settings, ranks.rung, ranks.size)
    micro = micro_batch(settings.batch.effective, ranks.size, settings.batch.micro)
    return settings.model_copy(update={"batch": settings.batch.model_copy(update={"micro": micro})})


def check_input(settings: TrainSettings, dataset: ProcessedDataset) -> None:
    """What can be refused before anything heavy is loaded."""
    from triagekit.modeling.base import resolve_base
    from triagekit.training.label_choices import check_label_choices

    check_label_choices(settings, dataset.schema)
    resolve_base(settings.base)
    check_trackers(settings)


def _run(
    settings: TrainSettings,
    folder: RunFolder,
    dataset: ProcessedDataset,
    ranks: Ranks,
    stop: StopRequest,
    progress: Progress,
    notes: Notes,
) -> None:
    from triagekit.modeling.quiet import quiet_libraries

    quiet_libraries()
    from triagekit.training import environment
    from triagekit.training.checkpoints import checkpoint_path, newest_usable
    from triagekit.training.finish import finish_run
    from triagekit.training.first_step import look_at_first_step
    from triagekit.training.metrics_log import MetricsLog
    from triagekit.training.prepare import prepare_run
    from triagekit.training.resume import best_step, continue_at, describe_move, has_reached_its_end

    checkpoint: Path | None = None
    if ranks.main:
        starts = folder.read(folder.environment).get("starts", [])
        write_json(folder.environment, {"starts": [*starts, {**environment.describe(), **ranks.describe()}]})
        checkpoint = newest_usable(folder.checkpoints, notes, best_step)
    run = prepare_run(settings, folder, dataset, stop, progress, notes, ranks)
    trainer, steps = run.trainer, run.plan["steps"]
    group = trainer.group
    # The first process has looked which checkpoint is whole.
    step = int(group.text_of(0, str(continue_at(checkpoint))))
    checkpoint = checkpoint_path(folder.checkpoints, step) if step else None
    if checkpoint is not None:
        notes(f"Going on from step {step} of {steps}." + describe_move(checkpoint, ranks))
    if ranks.main:
        trainer.metrics_log = MetricsLog(folder, step)
    warnings = look_at_first_step(run)
    if ranks.main:
        write_json(folder.plan, run.plan)
    if warnings and not step:
        notes(warnings)
    try:
        if checkpoint is not None and has_reached_its_end(checkpoint, settings, steps):
            trainer.take_state_of(checkpoint)
        else:
            if number := stop.agree(group):
                raise TrainingInterrupted(number, step, steps)
            start_trackers(trainer, folder)
            with memory_advice(settings):
                stop.in_loop = True
                trainer.measured.begin_session()
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            stop.in_loop = False
            trainer.measured.end_session()
            reached = trainer.state.global_step >= steps or trainer.stopped_early
            if (number := stop.agree(group)) and not reached:
                raise TrainingInterrupted(number, trainer.state.global_step, steps)
    finally:
        if trainer.metrics_log is not None:
            trainer.metrics_log.close()
    finish_run(run)


@contextlib.contextmanager
def memory_advice(settings: TrainSettings) -> Iterator[None]:
    """Turn the accelerator's out-of-memory failure into what to change."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        micro = settings.batch.micro
        smaller = f"batch.micro={max(1, micro // 2)} (now {micro}), " if micro > 1 else ""
        raise TriageError(
            f"The accelerator's memory is full. Try {smaller}gradient_checkpointing=true, a smaller prompt.max_length, "
            f"or quantization.bits=4. None of the first two changes the result. ({str(error).splitlines()[0]})"
        ) from None

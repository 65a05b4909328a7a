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
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

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

    Returns the finished run; a run that is finished already is returned at once. `notes` is told what a person should
    know (where it goes on, what was removed, how many tickets were cut).
    Raises TrainingInterrupted when a signal ended it with a checkpoint on disk; TriageError for what the user can
    mend, among them a folder that holds a run with other settings.
    """
    tell = notes or (lambda text: None)
    folder = RunFolder.create(
        Path(settings.output) / settings.run_name, settings.model_dump(mode="json"), to_yaml(settings)
    )
    if folder.is_finished:
        tell(f"{folder.folder} is already finished.")
        return folder
    from triagekit.data.dataset import ProcessedDataset

    with folder.lock():
        dataset = ProcessedDataset.open(settings.data)
        _check(settings, dataset)
        _run(settings, folder, dataset, progress or SilentProgress(), tell)
    return folder


def _check(settings: TrainSettings, dataset: ProcessedDataset) -> None:
    """What can be refused before anything heavy is loaded."""
    from triagekit.modeling.base import resolve_base
    from triagekit.training.label_choices import check_label_choices

    check_label_choices(settings, dataset.schema)
    resolve_base(settings.base)


def _run(
    settings: TrainSettings, folder: RunFolder, dataset: ProcessedDataset, progress: Progress, notes: Notes
) -> None:
    from triagekit.modeling.quiet import quiet_libraries

    quiet_libraries()
    from triagekit.training import environment
    from triagekit.training.checkpoints import newest_usable
    from triagekit.training.finish import finish_run
    from triagekit.training.metrics_log import MetricsLog
    from triagekit.training.prepare import prepare_run
    from triagekit.training.resume import best_step, continue_at, has_reached_its_end
    from triagekit.training.stopping import StopRequest, TrainingInterrupted

    starts = folder.read(folder.environment).get("starts", [])
    write_json(folder.environment, {"starts": [*starts, environment.describe()]})
    stop = StopRequest()
    run = prepare_run(settings, folder, dataset, stop, progress, notes)
    trainer, steps = run.trainer, run.plan["steps"]
    checkpoint = newest_usable(folder.checkpoints, notes, best_step)
    step = continue_at(checkpoint)
    if checkpoint is not None:
        notes(f"Going on from step {step} of {steps}.")
    trainer.metrics_log = MetricsLog(folder, step)
    try:
        if checkpoint is not None and has_reached_its_end(checkpoint, settings, steps):
            trainer.take_state_of(checkpoint)
        else:
            with stop, memory_advice(settings):
                trainer.begin_session()
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.end_session()
            reached = trainer.state.global_step >= steps or trainer.stopped_early
            if stop.signal_number is not None and not reached:
                raise TrainingInterrupted(stop.signal_number, trainer.state.global_step, steps)
    finally:
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

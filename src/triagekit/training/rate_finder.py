"""The learning-rate range test (Smith 2017, arXiv 1506.01186): one short run whose rate climbs until the loss breaks out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.progress import Progress, SilentProgress
from triagekit.settings import to_yaml
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

if TYPE_CHECKING:
    from triagekit.training.trainer import TriageTrainer

LOWEST, HIGHEST = 1e-6, 1.0
BROKEN_OUT = 2.0
"""The test ends when the running mean of the loss is so many times its best."""
FEWEST = 8
"""With fewer steps there is no curve to read."""
RESULT, PLOT = "losses.json", "losses.svg"


@dataclass(frozen=True)
class RateFinding:
    """Loss in nats a token (of each step, and smoothed) over the learning rate of that step.

    `steepest`: where the smoothed loss falls fastest over the rate's logarithm, a cautious choice. `lowest`: where it is
    lowest, the upper end of what can be trained with. `suggested`: their geometric mean. All None where the loss never fell.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    suggested: float | None
    lowest: float | None


def find_learning_rate(
    settings: TrainSettings,
    steps: int = 100,
    progress: Progress | None = None,
    notes: Callable[[str], None] = lambda text: None,
) -> tuple[RateFinding, Path]:
    """Train for at most `steps` optimizer steps, the rate growing by one factor from LOWEST to HIGHEST, in this process.

    Nothing of it enters the run itself: its files stand in `<run folder>/find_lr`, made anew each time. Returns the finding
    and that folder. Raises TriageError for too few steps and for whatever training itself would refuse.
    """
    if steps < FEWEST:
        raise TriageError(
            f"The learning-rate test needs at least {FEWEST} steps, {steps} were asked for; 100 is usual."
        )
    run = RunFolder(Path(settings.output) / settings.run_name)
    if not run.config.is_file():
        # The run itself is made by its training: at another rate it would have other settings.
        run.make_place()
    place = run.rate_test
    with run.lock():
        shutil.rmtree(place, ignore_errors=True)
        trial = _trial_settings(settings, steps)
        folder = RunFolder.create(place, trial.model_dump(mode="json"), to_yaml(trial))
        rates, losses = _train(trial, folder, steps, progress or SilentProgress(), notes)
    finding = read_curve(rates, losses)
    write_json(place / RESULT, asdict(finding))
    return finding, place


def read_curve(rates: Sequence[float], losses: Sequence[float]) -> RateFinding:
    """What the losses of a test say."""
    smoothed = smooth(losses, len(losses) // 30 + 1)
    best = min(range(len(smoothed)), key=smoothed.__getitem__)
    if best < 2:
        return RateFinding(list(rates), list(losses), smoothed, None, None, None)
    logs = [math.log(rate) for rate in rates]
    slopes = [(smoothed[i + 1] - smoothed[i - 1]) / (logs[i + 1] - logs[i - 1]) for i in range(1, best)]
    steepest = rates[1 + min(range(len(slopes)), key=slopes.__getitem__)]
    lowest = rates[best]
    return RateFinding(list(rates), list(losses), smoothed, steepest, math.sqrt(steepest * lowest), lowest)


def smooth(losses: Sequence[float], reach: int) -> list[float]:
    """Mean of each loss and its `reach` neighbours on both sides: unlike a running mean it moves no minimum to the right."""
    windows = (losses[max(0, place - reach) : place + reach + 1] for place in range(len(losses)))
    return [sum(window) / len(window) for window in windows]


def _trial_settings(settings: TrainSettings, steps: int) -> TrainSettings:
    optimizer = settings.optimizer.model_copy(
        update={"learning_rate": LOWEST, "schedule": "constant", "warmup_share": 0.0}
    )
    evaluation = settings.evaluation.model_copy(update={"max_rows": 1, "early_stopping": None})
    rows = min(settings.max_train_rows or math.inf, steps * settings.batch.effective)
    changes = {"optimizer": optimizer, "evaluation": evaluation, "max_steps": steps, "max_train_rows": int(rows)}
    return settings.model_copy(update={**changes, "name": "find_lr"})


def _train(
    settings: TrainSettings, folder: RunFolder, steps: int, progress: Progress, notes: Callable[[str], None]
) -> tuple[list[float], list[float]]:
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.quiet import quiet_libraries
    from triagekit.training.stopping import StopRequest

    quiet_libraries()
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy

    from triagekit.training.prepare import prepare_run
    from triagekit.training.rate_climb import RateClimb
    from triagekit.training.train import memory_advice

    with StopRequest() as stop:
        run = prepare_run(settings, folder, ProcessedDataset.open(settings.data), stop, progress, notes)
        trainer: TriageTrainer = run.trainer
        arguments: Any = trainer.args
        arguments.eval_strategy, arguments.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        climb = RateClimb(trainer.measured, LOWEST, HIGHEST, steps, BROKEN_OUT)
        trainer.add_callback(climb)
        with memory_advice(settings):
            stop.in_loop = True
            trainer.measured.begin_session()
            trainer.train()
        if stop.signal_number:
            raise TriageError("The learning-rate test was stopped; it starts anew with the same command.")
    return climb.rates, climb.losses

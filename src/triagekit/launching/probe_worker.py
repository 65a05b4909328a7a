"""`python -m triagekit.launching.probe_worker SETTINGS`: two optimizer steps on the longest batch there can be.

Runs alone in a child process, or in every rank of a launch; what happened is in the rank's report.
"""

from __future__ import annotations

import errno
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.launching.rank import run_in_rank
from triagekit.launching.reports import RankReport, own_rank
from triagekit.progress import SilentProgress
from triagekit.settings import load_settings
from triagekit.training.ranks import ranks_from_environment
from triagekit.training.settings import TrainSettings

if TYPE_CHECKING:
    from triagekit.data.dataset import ProcessedDataset

STEPS = 2
"""The optimizer's state is made in the first step, so the second one is the one that needs most."""
CHARACTERS_A_TOKEN = 24
"""More than any tokenizer packs into a token of running text: a ticket this long is cut at the limit."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "cublas_status_alloc_failed")


def main(words: Sequence[str]) -> int:
    """Probe the settings in the file `words[0]`. 0: they fit; 1: they do not, or something else failed."""
    path = Path(words[0])
    rung = ranks_from_environment().rung
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if rung is not None and rung.on_cpu:
        # A card's limit is the card's; a process on the CPU is held to what its rung promises to do with.
        resource.setrlimit(resource.RLIMIT_DATA, (int(rung.memory_gb * 1e9), before[1]))
    return run_in_rank(lambda: _try(path, before))


def _try(path: Path, limit_before: tuple[int, int]) -> RankReport:
    rank = own_rank() or 0
    try:
        # Beside the settings, so that the launcher removes it even when this process is killed.
        peak = _train(load_settings(TrainSettings, path), path.parent / str(rank) / "probe")
        return RankReport(rank, "finished", peak_bytes=peak)
    except Exception as error:
        # To report takes memory too.
        resource.setrlimit(resource.RLIMIT_DATA, limit_before)
        cause = out_of_memory(error)
        if cause is None:
            raise
        return RankReport(rank, "out_of_memory", str(cause).strip().partition("\n")[0])


def out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error among `error` and those behind it that says, in whatever library's words, that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return error
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return error
        if isinstance(error, RuntimeError) and any(words in str(error).casefold() for words in OUT_OF_MEMORY):
            return error
        error = error.__cause__ or error.__context__
    return None


def _train(settings: TrainSettings, folder: Path) -> int:
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.quiet import quiet_libraries

    quiet_libraries()
    trainer = _prepared(settings, longest_tickets(ProcessedDataset.open(settings.data), settings), folder)
    # Nothing of a probe is worth a checkpoint; validation is measured after the steps, with their memory still held.
    trainer.args.save_strategy = trainer.args.eval_strategy = type(trainer.args.save_strategy)("no")
    trainer.train()
    trainer.evaluate()
    return _peak_bytes()


def _prepared(settings: TrainSettings, dataset: ProcessedDataset, folder: Path) -> Any:
    from triagekit.training.prepare import prepare_run
    from triagekit.training.run_folder import RunFolder
    from triagekit.training.stopping import StopRequest

    # The same name in every rank: it is part of the plan, which the ranks compare.
    return prepare_run(
        settings,
        RunFolder(folder),
        dataset,
        StopRequest(),
        SilentProgress(),
        lambda text: None,
        ranks_from_environment(),
    ).trainer


def longest_tickets(dataset: ProcessedDataset, settings: TrainSettings) -> ProcessedDataset:
    """The data set with tickets so long that every row is cut at prompt.max_length, and the longest record in each."""
    rows = dataset.rows("train")
    text = max((row.text for row in rows), key=len)
    record = max(rows, key=lambda row: len(str(row.record)))
    wanted = settings.prompt.max_length * CHARACTERS_A_TOKEN
    long = replace(record, text=f"{text} " * (wanted // max(1, len(text)) + 1))
    trained = [replace(long, id=f"probe-{number}") for number in range(STEPS * settings.batch.effective)]
    measured = [replace(long, id=f"probe-val-{number}") for number in range(settings.batch.eval)]
    return replace(dataset, _rows={"train": trained, "val": measured if dataset.rows("val") else [], "test": []})


def _peak_bytes() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

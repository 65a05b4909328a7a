"""One adapter's work in a worker process: loaded once, shards scored and written one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from triagekit.errors import TriageError
from triagekit.scoring.intake import Shard
from triagekit.scoring.part_formats import OutputFormat
from triagekit.scoring.parts import PartSummary, write_part
from triagekit.scoring.trouble import disk_full, is_disk_full, is_out_of_memory, release_memory

if TYPE_CHECKING:
    from triagekit.modeling.adapter_folder import LoadedAdapter
    from triagekit.scoring.care import Watch
    from triagekit.scoring.job_card import Reading
    from triagekit.scoring.policy import ThresholdPolicy
    from triagekit.scoring.predictor import Prediction, Predictor

SYSTEMATIC = 16
"""When this many tickets fail and none of the shard succeeds, something other than the tickets is wrong."""


class NothingScored(TriageError):
    """A shard in which the model failed on every ticket. Another process may fare better: a GPU may have fallen over."""


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker needs to know before its first shard."""

    adapter: str
    out: str
    base: str | None
    precision: str
    device: str | None
    batch_size: int
    constrained: bool
    auto_threshold: float | None
    threads: int
    fields: tuple[str, ...] | None = None
    policy: ThresholdPolicy | None = None
    output_format: OutputFormat = "parquet"
    archive: str = ""
    reading: Reading | None = None
    job: str = ""
    merged: bool = True
    """Whether the adapter is folded into its base; else it stands beside it, and the base can be shared before its weights
    are laid out for inference."""


class ScoreWorker:
    """Scores shards with one adapter."""

    def __init__(self, order: WorkerOrder) -> None:
        self._order = order
        self._predictor: Predictor | None = None
        self._rows_at_once: int | None = None

    @property
    def adapter(self) -> LoadedAdapter:
        """The adapter, which is open."""
        assert self._predictor is not None
        return self._predictor.adapter

    def open(self) -> str | None:
        """Load the adapter. The text of the refusal where it cannot be used (errors do not travel well as objects)."""
        import torch

        from triagekit.scoring.predictor import Predictor

        order = self._order
        torch.set_num_threads(order.threads)
        try:
            self._predictor = Predictor.from_run(
                Path(order.adapter),
                base=order.base,
                device=order.device,
                batch_size=order.batch_size,
                precision=order.precision,
                auto_threshold=order.auto_threshold,
                constrained=order.constrained,
                fields=order.fields,
                merged=order.merged,
                packed=order.merged,
            )
        except TriageError as error:
            return str(error)
        return None

    def score(self, shard: Shard, rows_at_once: int | None = None, watch: Watch | None = None) -> PartSummary:
        """Score one shard and write its part. `rows_at_once`: given to the model together at most. With `watch` they go one
        by one, and those that it leaves out are written as errors.

        Raises NothingScored, and TriageError where there is no room for the part.
        """
        if self._predictor is None and (refusal := self.open()):
            raise TriageError(refusal)
        assert self._predictor is not None
        before = self._predictor.counts()
        texts = [text for _, text in shard.rows]
        predictions = self._predict(texts, rows_at_once) if watch is None else self._predict_watched(texts, watch)
        work = {name: value - before[name] for name, value in self._predictor.counts().items()}
        failed = [item for item in predictions if item.verdict == "error" and item.record is None and not item.text]
        if len(failed) == len(predictions) >= SYSTEMATIC:
            raise NothingScored(f"None of {len(failed)} tickets could be scored; the first: {failed[0].error}")
        out = Path(self._order.out)
        try:
            summary = write_part(
                out,
                self._predictor.schema,
                shard,
                predictions,
                str(self._predictor.adapter.card["fingerprint"]),
                self._order.policy,
                self._order.output_format,
            )
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(out, error) from None
            raise
        return replace(summary, work=work)

    def _predict_watched(self, texts: Sequence[str], watch: Watch) -> list[Prediction]:
        from triagekit.scoring.predictor import failed_prediction

        found: list[Prediction] = []
        for place, text in enumerate(texts):
            if place in watch.left_out:
                found.append(failed_prediction("The worker's process ended at this ticket, twice.", text[:200]))
            else:
                watch.begin(place)
                found += self._predict([text], 1)
        # Whatever ends the process from here on is no ticket's doing.
        watch.end()
        return found

    def _predict(self, texts: Sequence[str], rows_at_once: int | None) -> list[Prediction]:
        """A prediction for every ticket. Where memory runs out, half as many go together from then on."""
        assert self._predictor is not None
        found: list[Prediction] = []
        while len(found) < len(texts):
            together = min(rows_at_once or len(texts), self._rows_at_once or len(texts))
            try:
                found += predict_each(self._predictor, texts[len(found) : len(found) + together])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._rows_at_once = max(1, min(together, self._order.batch_size) // 2)
                release_memory()
        return found


def predict_each(predictor: Predictor, texts: Sequence[str]) -> list[Prediction]:
    """A prediction for every ticket: where the model fails on some, halving finds them, and they say what happened.

    Want of memory is no ticket's fault while several go together: it is raised on.
    """
    from triagekit.scoring.predictor import failed_prediction

    if not texts:
        return []
    try:
        return predictor.predict(texts)
    except Exception as error:  # whatever a model can raise must cost one row, not the job; it is written to that row
        if len(texts) == 1:
            return [failed_prediction(f"{type(error).__name__}: {str(error)[:500]}", texts[0][:200])]
        if is_out_of_memory(error):
            raise
    middle = len(texts) // 2
    return predict_each(predictor, texts[:middle]) + predict_each(predictor, texts[middle:])

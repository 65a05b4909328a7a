"""The run that is served: loaded in the batcher's thread, and what is said of it and of each of its predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.scoring.policy import ThresholdPolicy
from triagekit.scoring.process_memory import prepare_for_tickets
from triagekit.service.batcher import ModelBroken
from triagekit.service.settings import ServeSettings

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema
    from triagekit.scoring.predictor import Prediction, Predictor

PROBE = "The printer is dead."
"""A ticket that every model can answer."""


@dataclass
class ServedRun:
    """Filled in by the loading thread; empty fields until then."""

    name: str
    schema: Schema | None = None
    fingerprints: dict[str, str] | None = None
    decoding: dict[str, Any] | None = None
    """What was asked of the decoder: `precision`, `fields` (None: all), `auto_at`."""

    def to_json(self) -> dict[str, Any]:
        """Run, schema, fingerprints and how records are decoded, as `/health` shows them."""
        result: dict[str, Any] = {"run": self.name, "schema": self.schema.name if self.schema else None}
        return result | {"fingerprints": self.fingerprints, "decoding": self.decoding}

    def answer(self, identity: str | int | None, prediction: Prediction) -> dict[str, Any]:
        """One ticket of an answer: what `triage predict --json` prints, with the id."""
        assert self.schema is not None
        return {"id": identity, **prediction.to_json(self.schema)}


def load_run(settings: ServeSettings, served: ServedRun) -> Callable[[Sequence[str]], list[Prediction]]:
    """Load the run and fill in `served`; the function that predicts. Raises TriageError as Predictor.from_run and
    read_calibration do."""
    from triagekit.scoring.predictor import Predictor

    policy = None
    if settings.auto_at is not None:  # read before a model is loaded for nothing
        policy = ThresholdPolicy.of_run(settings.run, settings.auto_at, settings.precision, settings.fields)
    predictor = Predictor.from_run(
        settings.run,
        base=settings.base,
        device=settings.device,
        batch_size=settings.batch_size,
        precision=settings.precision,
        auto_threshold=settings.auto_threshold,
        fields=settings.fields,
    )
    # What is computed once (the prefix's keys and values) should not wait for the first caller.
    predictor.predict([PROBE])
    prepare_for_tickets()
    card = predictor.adapter.card
    served.schema = predictor.schema
    served.fingerprints = {
        "adapter": str(card["fingerprint"]),
        "schema": str(card["schema_fingerprint"]),
        "template": str(card["template_fingerprint"]),
        "base": str(card["base_fingerprint"]),
    }
    served.decoding = {"precision": settings.precision, "fields": settings.fields, "auto_at": settings.auto_at}

    def predict(texts: Sequence[str]) -> list[Prediction]:
        predictions = predict_or_give_up(predictor, texts)
        return predictions if policy is None else policy.judge(predictions)[0]

    return predict


def predict_or_give_up(predictor: Predictor, texts: Sequence[str]) -> list[Prediction]:
    """A prediction for every ticket, as the archive's workers make them.

    Where the model failed on all of them, a ticket that it has answered before tells whether it is the tickets or the
    model (a GPU that has fallen over answers nobody again). Raises ModelBroken for the latter.
    """
    from triagekit.scoring.worker import predict_each

    predictions = predict_each(predictor, texts)
    if any(prediction.record is not None for prediction in predictions) or not any(text.strip() for text in texts):
        return predictions
    try:
        predictor.predict([PROBE])
    except Exception as error:  # whatever it is: the model answered this very ticket when it was loaded
        raise ModelBroken(
            f"The model answers no ticket any more ({type(error).__name__}), not even the one it answered when it was "
            "loaded. Start the service again; `triage doctor` says whether the GPU is well."
        ) from None
    return predictions


def run_name(run_or_adapter: str) -> str:
    """The run's folder name, without the machine's paths."""
    path = Path(run_or_adapter).expanduser().resolve()
    return path.parent.name if path.name == "adapter" else path.name

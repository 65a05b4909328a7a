"""Tickets to predictions with one run's adapter: what `triage predict`, the archive workers and evaluation call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.data.pieces import printable
from triagekit.decoding.decoder import DEFAULT_BATCH_SIZE, BatchedDecoder
from triagekit.decoding.free import generate_free
from triagekit.decoding.grammar import RecordGrammar
from triagekit.errors import TriageError
from triagekit.schema.fields import TextField
from triagekit.schema.parse import parse_record
from triagekit.schema.subset import select_fields
from triagekit.schema.validate import FieldProblem, Verdict, validate_record, verdict
from triagekit.scoring.adapter_place import adapter_folder
from triagekit.scoring.decoding_mode import NF4

if TYPE_CHECKING:
    from triagekit.modeling.adapter_folder import LoadedAdapter
    from triagekit.schema.schema import Schema

INT8 = "int8"
_CONFIDENCE_DIGITS = 6
WHOLE_TICKET = ""
"""Field name of a problem that concerns the ticket as a whole."""


@dataclass(frozen=True)
class Prediction:
    """What is said of one ticket.

    `record` is None only where nothing could be predicted (verdict `error`); `problems` then says why. `confidence` has
    one number a field, 0 to 1. `text` is the canonical JSON, or what the model wrote where decoding was unconstrained.
    `chance`: that every label is right, where a calibration has told (ThresholdPolicy.judge).
    """

    record: dict[str, Any] | None
    confidence: dict[str, float]
    verdict: Verdict
    problems: tuple[FieldProblem, ...]
    text: str
    chance: float | None = None

    @property
    def error(self) -> str | None:
        """The problems as one line of text; None without any."""
        lines = [
            f"{problem.field}: {problem.message}" if problem.field else problem.message for problem in self.problems
        ]
        return "; ".join(lines) or None

    def to_json(self, schema: Schema) -> dict[str, Any]:
        """What commands and the service print. `overall` decides on `review`: `chance` where a calibration has told, else the
        least sure label's confidence; None without confidences. `schema`: that of the record."""
        overall = self.chance
        if overall is None and self.confidence:
            overall = least_sure_label(schema, self.confidence)
        return {
            "record": self.record,
            "confidence": {name: round(share, _CONFIDENCE_DIGITS) for name, share in self.confidence.items()},
            "overall": None if overall is None else round(overall, _CONFIDENCE_DIGITS),
            "verdict": self.verdict,
            "error": self.error,
        }


def failed_prediction(message: str, value: Any = None) -> Prediction:
    """A prediction that says why there is none."""
    return Prediction(None, {}, "error", (FieldProblem(WHOLE_TICKET, value, message),), "")


class Predictor:
    """Predicts with a loaded adapter. Not for use from several threads at once."""

    def __init__(
        self,
        adapter: LoadedAdapter,
        batch_size: int = DEFAULT_BATCH_SIZE,
        auto_threshold: float | None = None,
        constrained: bool = True,
        fields: Sequence[str] | None = None,
    ) -> None:
        """`auto_threshold`: below it, in any field but free text, an otherwise valid record gets verdict `review`.

        `constrained` False lets the model write freely and parses what comes: only to see what the constraint does.
        `fields`: write these only, in the schema's order ("labels": all but free text); the others are not computed.
        Raises TriageError for fields that the schema does not have, or that cannot stand without another one.
        """
        self.adapter = adapter
        self.schema: Schema = adapter.schema if fields is None else select_fields(adapter.schema, fields)
        self.batch_size = batch_size
        self._auto_threshold = auto_threshold
        self._decoder: BatchedDecoder | None = None
        if constrained:
            grammar = RecordGrammar.compile(adapter.segments, self.schema)
            self._decoder = BatchedDecoder(adapter.model, adapter.segments, batch_size, grammar)
        elif fields is not None:
            raise TriageError("Free writing knows no fields: leave `fields` out, or keep the constraint.")

    @classmethod
    def from_run(
        cls,
        run_or_adapter: Path | str,
        base: str | None = None,
        device: str | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        precision: str = "auto",
        auto_threshold: float | None = None,
        constrained: bool = True,
        schema: Schema | None = None,
        fields: Sequence[str] | None = None,
        merged: bool = True,
        packed: bool = True,
    ) -> Predictor:
        """Load `runs/<name>` or an adapter folder, the adapter folded into its base (less work a token) unless `merged` is
        False (several adapters can share a base). `packed`: lay the weights out for inference on a CPU, where it pays.

        `precision` auto, fp32, fp16, bf16, int8 (linear layers in 8-bit integers), or nf4 (the base in 4 bits,
        the adapter beside it: QLoRA's own arrangement). Raises TriageError for a folder without an adapter, and where base,
        schema or template are not those it was trained with.
        """
        from triagekit.modeling.quiet import quiet_libraries

        quiet_libraries()
        from triagekit.modeling.adapter_folder import load_adapter
        from triagekit.modeling.int8_linear import to_int8
        from triagekit.modeling.packed_linear import pack_linears
        from triagekit.modeling.settings import QuantizationSettings

        folder = adapter_folder(run_or_adapter)
        if precision == INT8:
            adapter = load_adapter(folder, base, "auto", device, merge=True, schema=schema)
            to_int8(adapter.model)
        elif precision == NF4:
            adapter = load_adapter(
                folder, base, "auto", device, schema=schema, quantization=QuantizationSettings.model_validate({})
            )
        else:
            adapter = load_adapter(folder, base, precision, device, merge=merged, schema=schema)
        if packed:
            pack_linears([adapter.model])
        return cls(adapter, batch_size, auto_threshold, constrained, fields)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction a ticket, in order. An empty ticket gets verdict `error`, it is not guessed at."""
        results = [failed_prediction("The ticket is empty.", text) for text in texts]
        places = [place for place, text in enumerate(texts) if text.strip()]
        # Halves of UTF-16 pairs (broken bytes of a pipe) are no text that a tokenizer could read.
        given = [printable(texts[place]) for place in places]
        found = self._free(given) if self._decoder is None else self._constrained(self._decoder, given)
        for place, prediction in zip(places, found, strict=True):
            results[place] = prediction
        return results

    def counts(self) -> dict[str, int]:
        """What decoding has taken so far, by the names of DecodeCounts; empty without the constraint."""
        return asdict(self._decoder.counts) if self._decoder is not None else {}

    def _constrained(self, decoder: BatchedDecoder, texts: Sequence[str]) -> list[Prediction]:
        predictions = []
        for decoded in decoder.decode(texts):
            problems = tuple(validate_record(self.schema, decoded.record))
            judged = self._judge(verdict(problems), decoded.confidence)
            predictions.append(Prediction(decoded.record, decoded.confidence, judged, problems, decoded.text))
        return predictions

    def _free(self, texts: Sequence[str]) -> list[Prediction]:
        written = generate_free(self.adapter.model, self.adapter.segments, texts, batch_size=self.batch_size)
        parsed = [parse_record(self.schema, text) for text in written]
        return [Prediction(item.record, {}, item.verdict, item.problems, item.raw) for item in parsed]

    def _judge(self, judged: Verdict, confidence: Mapping[str, float]) -> Verdict:
        if judged != "auto" or self._auto_threshold is None:
            return judged
        return "auto" if least_sure_label(self.schema, confidence) >= self._auto_threshold else "review"


def least_sure_label(schema: Schema, confidence: Mapping[str, float]) -> float:
    """The smallest confidence of a record's labels, which decides on `review`; 1 for a schema without labels.

    Free text is left out: its confidence is a product over dozens of words, small even where every word is right.
    """
    labels = [confidence[field.name] for field in schema.fields if not isinstance(field, TextField)]
    return min(labels, default=1.0)

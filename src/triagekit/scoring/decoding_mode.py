"""How records are decoded where it changes what they say: weights in fewer bits, and fields left out.

Measurements and calibrations of one mode are not those of another, so each mode has names of its own for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from triagekit.files.fingerprint import fingerprint_json
from triagekit.modeling.settings import ScoringPrecision
from triagekit.schema.schema import Schema
from triagekit.schema.subset import LABELS, select_fields

NF4 = "nf4"
_AUTO = "auto"
_FLOATS = ("fp32", "fp16", "bf16")
_LONGEST_NAME = 64


@dataclass(frozen=True)
class DecodingMode:
    """`precision` as scoring takes it; `fields` in the schema's order, None for all of them."""

    precision: str = _AUTO
    fields: tuple[str, ...] | None = None
    fields_name: str = ""
    """`labels` (where no field is called so), or the fields joined by `+`; empty for all of them."""

    @classmethod
    def of(cls, schema: Schema, precision: str = _AUTO, fields: Sequence[str] | None = None) -> DecodingMode:
        """Of a run with the whole `schema`. Raises ProblemsError for fields that cannot be scored."""
        if fields is None:
            return cls(precision)
        kept = select_fields(schema, fields).field_names
        if tuple(kept) == tuple(schema.field_names):
            return cls(precision)
        labels = tuple(field.name for field in schema.label_fields)
        name = LABELS if tuple(kept) == labels and LABELS not in schema.field_names else "+".join(kept)
        if len(name) > _LONGEST_NAME or name in get_args(ScoringPrecision):
            name = f"{len(kept)}-fields-{fingerprint_json(list(kept))}"
        return cls(precision, tuple(kept), name)

    @property
    def name(self) -> str:
        """Of its measurements: a folder's name, empty for whole records in the adapter's own numbers."""
        return "+".join(part for part in ("" if self.precision == _AUTO else self.precision, self.fields_name) if part)

    @property
    def calibration_name(self) -> str:
        """Of its calibration. Floats of any length share one: they differ by less than a fit can tell."""
        return DecodingMode(_AUTO, self.fields, self.fields_name).name if self.precision in _FLOATS else self.name

    @property
    def arguments(self) -> str:
        """That `triage evaluate` takes for this mode, each behind a space; empty for the usual one."""
        precision = "" if self.precision == _AUTO else f" --precision {self.precision}"
        if self.fields is None:
            return precision
        return f"{precision} --fields {LABELS if self.fields_name == LABELS else ','.join(self.fields)}"

"""What a decoder hands back, and how it adds up its confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triagekit.schema.canonical import canonical_json

if TYPE_CHECKING:
    from triagekit.schema.schema import Schema


@dataclass(frozen=True)
class DecodedRecord:
    """A record, valid by construction.

    `confidence` per field: the product, over the choices made inside the field's value, of the chosen token's
    probability renormalised over the tokens that the schema allowed there. A forced token counts as 1.
    `text` is the record's canonical JSON, `tokens` the number of its tokens, forced ones included.
    `ticket_tokens_cut` were cut from the ticket's end to fit the prompt.
    """

    record: dict[str, Any]
    confidence: dict[str, float]
    text: str
    tokens: int
    ticket_tokens_cut: int


def decoded_record(
    schema: Schema, record: dict[str, Any], log_confidence: Sequence[float], tokens: int, ticket_tokens_cut: int
) -> DecodedRecord:
    """The finished record with its text. `log_confidence`: natural logarithm per schema field, in order."""
    confidence = {
        field.name: min(1.0, math.exp(value)) for field, value in zip(schema.fields, log_confidence, strict=True)
    }
    return DecodedRecord(record, confidence, canonical_json(schema, record), tokens, ticket_tokens_cut)

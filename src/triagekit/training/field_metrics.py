"""How well each schema field is predicted on the validation rows, from the forward pass that gives their loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from triagekit.schema import Schema, TextField
from triagekit.training.collator import IGNORED, Batch, row_numbers


class FieldMetrics:
    """Counts by field over validation batches that carry a `fields` column.

    Figures are teacher-forced: each token is predicted from the true record before it. For a field with fixed values
    that is `value_accuracy/<field>`, the share of rows whose value tokens are all the likeliest ones: accuracy of the
    value, given the right fields before. A free text has many good wordings, of which the record holds one; for such a
    field the share of its right tokens is given, `field_token_accuracy/<field>`.
    """

    def __init__(self, schema: Schema) -> None:
        self._names = schema.field_names
        self._is_text = [isinstance(field, TextField) for field in schema.fields]

    @property
    def size(self) -> int:
        """Sums that `counts` gives."""
        return 4 * len(self._names)

    def counts(self, batch: Batch, correct: torch.Tensor) -> torch.Tensor:
        """Sums of one batch, float64 (4 × fields,): rows wholly right, rows, right tokens and tokens of each field.

        `correct` (trained tokens,) is in the order of the batch's trained labels.
        """
        selected = batch["labels"][:, 1:] != IGNORED
        fields = batch["fields"][:, 1:][selected]
        of_value = fields >= 0
        count = len(self._names)
        # One number for each pair of row and field.
        pairs = (row_numbers(batch)[:, 1:][selected] * count + fields)[of_value]
        right = correct.to(pairs.device, torch.float64)[of_value]
        length = (int(pairs.max()) // count + 1) * count if len(pairs) else count
        tokens = torch.bincount(pairs, minlength=length).double().view(-1, count)
        right_tokens = torch.bincount(pairs, weights=right, minlength=length).view(-1, count)
        present = tokens > 0
        whole = present & (right_tokens == tokens)
        return torch.cat([part.sum(dim=0, dtype=torch.float64) for part in (whole, present, right_tokens, tokens)])

    def figures(self, sums: Sequence[float]) -> dict[str, float]:
        """Name → share, from the summed counts; a field that no row has a value of is left out."""
        count = len(self._names)
        whole, rows, right, tokens = (sums[start : start + count] for start in range(0, 4 * count, count))
        named: dict[str, float] = {}
        for index, name in enumerate(self._names):
            if not tokens[index]:
                continue
            if self._is_text[index]:
                named[f"field_token_accuracy/{name}"] = right[index] / tokens[index]
            else:
                named[f"value_accuracy/{name}"] = whole[index] / rows[index]
        return named

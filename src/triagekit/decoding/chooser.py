"""The greedy choice of every row of a batch at once, among the tokens that the grammar allows it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from triagekit.decoding.batch_invariance import column_padded, log_share, with_company
from triagekit.decoding.kernels.text_choice import TextChoice
from triagekit.decoding.record_states import IN_TEXT
from triagekit.decoding.transfer import on_device
from triagekit.modeling.forward import causal_model, final_logits
from triagekit.modeling.packed_linear import Product, packed_product

if TYPE_CHECKING:
    from triagekit.decoding.grammar_tables import GrammarTables
    from triagekit.decoding.record_states import RecordStates

LISTED_AT_MOST = 0.5
"""Share of the vocabulary up to which the tokens of fixed values get an output head of their own."""


class Chooser:
    """Projects hidden states to logits, and takes the most probable token that is allowed.

    Most choices are among a few tokens of the schema's values. For them only these rows of the output head are computed:
    with a vocabulary of 150,000 tokens that is the larger part of a small model's work.
    """

    def __init__(self, model: nn.Module, tables: GrammarTables) -> None:
        self._model = model
        self._tables = tables
        self._text_choice = TextChoice.for_costs(tables.text_cost)
        head = causal_model(model).get_output_embeddings()
        self._head: Product = head
        self._listed: Product | None = None
        if type(head) is not nn.Linear:
            return
        if tables.text_cost is not None:
            self._head = packed_product(head.weight, head.bias) or head
        if len(tables.listed_tokens) <= LISTED_AT_MOST * head.weight.shape[0]:
            weight = column_padded(head.weight.detach()[tables.listed_tokens])
            bias = None if head.bias is None else column_padded(head.bias.detach()[tables.listed_tokens])
            self._listed = packed_product(weight, bias) or partial(nn.functional.linear, weight=weight, bias=bias)

    def advance(self, states: RecordStates, rows: torch.Tensor, ways: np.ndarray, hidden: torch.Tensor) -> None:
        """Choose in these rows of `states` by their hidden states [rows, H], and take what was chosen.

        `ways` on from where each row stands are those that `states` tells; none is finished. The lowest id wins among
        equals, as in the reference decoder.
        """
        in_text = ways == IN_TEXT
        if not in_text.any():
            self._advance_listed(states, rows, hidden, int(ways.max()))
        elif in_text.all():
            self._advance_text(states, rows, hidden)
        else:
            text, listed = (on_device(np.flatnonzero(part), rows.device) for part in (in_text, ~in_text))
            self._advance_text(states, rows[text], hidden[text])
            self._advance_listed(states, rows[listed], hidden[listed], int(ways.max()))

    def advance_static(
        self, states: RecordStates, rows: torch.Tensor, choosing: torch.Tensor, hidden: torch.Tensor
    ) -> None:
        """The same in those of `rows` that are `choosing` (boolean), by operations of shapes that depend on no value: whatever a
        row writes, the work is that of free text and of the widest choice."""
        tables = self._tables
        if tables.text_cost is None:
            text, listed = None, self._listed_logits(hidden)
        else:
            logits = self._logits(self._head, hidden)
            text, listed = self._text_among(states, rows, logits), logits[:, tables.listed_tokens]
        states.take_either(rows, choosing, self._edge_among(states, rows, listed, tables.widest), text)

    def _advance_text(self, states: RecordStates, rows: torch.Tensor, hidden: torch.Tensor) -> None:
        states.take_text(rows, *self._text_among(states, rows, self._logits(self._head, hidden)))

    def _advance_listed(self, states: RecordStates, rows: torch.Tensor, hidden: torch.Tensor, widest: int) -> None:
        states.take_edges(rows, *self._edge_among(states, rows, self._listed_logits(hidden), widest))

    def _text_among(
        self, states: RecordStates, rows: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The most probable token that may follow in each row's free text, and the logarithm of its share."""
        if self._text_choice is not None:
            return self._text_choice.choose(logits, *states.text_room(rows))
        fits = states.text_fits(rows)
        allowed = logits[:, : fits.shape[1]].masked_fill(~fits, -torch.inf)
        best, token = allowed.max(dim=-1)
        return token, log_share(best, allowed)

    def _edge_among(
        self, states: RecordStates, rows: torch.Tensor, listed: torch.Tensor, widest: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The most probable edge on from each row's place, by the logits of the listed tokens, and the logarithm of its share."""
        spans, allowed = states.edges(rows, widest)
        logits = listed.gather(1, self._tables.edge_column[spans]).masked_fill(~allowed, -torch.inf)
        best, place = logits.max(dim=-1)
        return spans.gather(1, place[:, None])[:, 0], log_share(best, logits)

    def _listed_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [rows, at least the listed tokens]."""
        if self._listed is None:
            return self._logits(self._head, hidden)[:, self._tables.listed_tokens]
        return self._logits(self._listed, hidden)

    def _logits(self, head: Product, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of `hidden` [rows, H] by all or some rows of the output head."""
        return final_logits(self._model, head(with_company(hidden))[: len(hidden)]).float()

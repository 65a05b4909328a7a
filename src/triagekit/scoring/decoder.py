"""The batched decoder: shared prompt prefix, forced spans, packed rows; equal to the reference decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from triagekit.errors import TriageError
from triagekit.modeling.forward import causal_model, project_to_logits
from triagekit.scoring.chooser import Chooser
from triagekit.scoring.grammar import RecordGrammar, RecordWalk
from triagekit.scoring.packed import PackedCache, packed_attention_of, packed_hidden_states
from triagekit.scoring.record import DecodedRecord, decoded_record

if TYPE_CHECKING:
    from torch import nn

    from triagekit.modeling.segments import SegmentTokenizer

DEFAULT_BATCH_SIZE = 64
_COMPACT_BELOW = 0.75
"""Rows leave the cache when fewer than this share of them is still being written: copying it for each one costs more."""


@dataclass
class _Row:
    """One ticket of a batch. `length` tokens are cached, `pending` ones go through the model next."""

    place: int
    walk: RecordWalk
    pending: list[int]
    length: int
    ticket_tokens_cut: int
    tokens: int
    log_confidence: list[float] = field(default_factory=list)


class BatchedDecoder:
    """Greedy decoding of many tickets that can only write valid records.

    A token that is the only one allowed costs no forward pass of its own: it goes in with the next choice. The keys and
    values of the prompt's common prefix are computed once per decoder. Not for use from several threads at once.
    """

    def __init__(
        self,
        model: nn.Module,
        segments: SegmentTokenizer,
        batch_size: int = DEFAULT_BATCH_SIZE,
        grammar: RecordGrammar | None = None,
    ) -> None:
        """Raises TriageError for a model whose attention cannot be run over packed rows."""
        self.grammar = grammar or RecordGrammar.compile(segments)
        self.batch_size = batch_size
        self._model = model.eval()
        self._segments = segments
        self._device = causal_model(model).get_input_embeddings().weight.device
        self._chooser = Chooser(self.grammar, self._device)
        self._layers = int(causal_model(model).config.get_text_config().num_hidden_layers)
        self._prefix_ids = list(segments.prefix_ids(0))
        self._prefix: PackedCache | None = None
        self._check_model()

    @torch.inference_mode()
    def decode(self, texts: Sequence[str]) -> list[DecodedRecord]:
        """Records of `texts`, in their order. Tickets of like length share a batch, the longest come first."""
        room = self._segments.ticket_room(0)
        rows = []
        for place, text in enumerate(texts):
            ticket, cut = self._segments.ticket_ids(text, room)
            rows.append(self._row(place, [*ticket, *self._segments.suffix_ids], cut))
        rows.sort(key=lambda row: len(row.pending), reverse=True)
        results: dict[int, DecodedRecord] = {}
        with packed_attention_of(self._model):
            for start in range(0, len(rows), self.batch_size):
                self._decode_batch(rows[start : start + self.batch_size], results)
        return [results[place] for place in range(len(texts))]

    def _row(self, place: int, own_ids: list[int], cut: int) -> _Row:
        walk = self.grammar.start()
        written = [*self.grammar.start_ids, *_forced(walk)]
        return _Row(
            place=place,
            walk=walk,
            pending=[*own_ids, *written],
            length=len(self._prefix_ids),
            ticket_tokens_cut=cut,
            tokens=len(written),
            log_confidence=[0.0] * len(self.grammar.schema.fields),
        )

    def _decode_batch(self, rows: list[_Row], results: dict[int, DecodedRecord]) -> None:
        longest = max(row.length + len(row.pending) for row in rows)
        cache = PackedCache.behind(self._prefix_cache(), len(self._prefix_ids), len(rows), longest + 32)
        cached = list(rows)
        active = [row for row in rows if not self._collect(row, results)]
        while active:
            if len(active) < _COMPACT_BELOW * len(cached):
                kept = {id(row) for row in active}
                cache.keep([number for number, row in enumerate(cached) if id(row) in kept])
                cached = active
            states = packed_hidden_states(
                self._model, [row.pending for row in cached], [row.length for row in cached], cache
            )
            tokens, shares = self._chooser.choose([row.walk for row in active], project_to_logits(self._model, states))
            for row, token, share in zip(active, tokens, shares, strict=True):
                row.log_confidence[row.walk.field] += share
                row.length += len(row.pending)
                row.walk.advance(token)
                row.pending = [token, *_forced(row.walk)]
                row.tokens += len(row.pending)
            active = [row for row in active if not self._collect(row, results)]

    def _collect(self, row: _Row, results: dict[int, DecodedRecord]) -> bool:
        """Put a finished row's record in its place. What is still pending then need not go through the model."""
        if not row.walk.finished:
            return False
        results[row.place] = decoded_record(row.walk, row.log_confidence, row.tokens, row.ticket_tokens_cut)
        row.pending = []
        return True

    def _prefix_cache(self) -> PackedCache:
        if self._prefix is None:
            self._prefix = PackedCache(self._layers, 1, len(self._prefix_ids))
            if self._prefix_ids:
                packed_hidden_states(self._model, [self._prefix_ids], [0], self._prefix)
        return self._prefix

    @torch.inference_mode()
    def _check_model(self) -> None:
        """Prove on a few tokens that packed rows give the model's own logits; other kinds of attention are refused."""
        causal = causal_model(self._model)
        rows = [[1, 2, 3, 4, 5], [6, 7]]
        own = torch.stack(
            [causal(input_ids=torch.tensor([row], device=self._device), use_cache=False).logits[0, -1] for row in rows]
        ).float()
        cache = PackedCache(self._layers, len(rows), 8)
        try:
            with packed_attention_of(self._model):
                packed_hidden_states(self._model, [rows[0][:3], rows[1][:1]], [0, 0], cache)
                states = packed_hidden_states(self._model, [rows[0][3:], rows[1][1:]], [3, 1], cache)
                ours = project_to_logits(self._model, states).float()
        except (TypeError, AttributeError, RuntimeError) as error:
            raise TriageError(f"{type(causal).__name__} cannot run over packed rows: {error}") from error
        tolerance = 1e-4 if own.dtype == torch.float32 and causal.dtype == torch.float32 else 5e-2
        difference = float((own - ours).abs().max() / own.abs().max().clamp(min=1e-6))
        if not difference <= tolerance:
            raise TriageError(
                f"{type(causal).__name__} gives other logits over packed rows than by itself (relative difference "
                f"{difference:.2g}); its kind of attention is not known here. Choose a base of another architecture."
            )


def _forced(walk: RecordWalk) -> list[int]:
    """Take the tokens that are the only ones allowed, up to the next choice."""
    taken = []
    while not walk.finished and (token := walk.forced()) is not None:
        walk.advance(token)
        taken.append(token)
    return taken

"""The greedy choice of every row of a batch at once, among the tokens that the grammar allows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from triagekit.scoring.grammar import RecordGrammar, RecordWalk

_NO_TOKEN = -1


class Chooser:
    """Holds the grammar's free-text costs as a tensor on the model's device."""

    def __init__(self, grammar: RecordGrammar, device: torch.device) -> None:
        self._device = device
        automaton = grammar.automaton
        self._cost = None if automaton is None else torch.from_numpy(automaton.cost.astype("int32")).to(device)

    def choose(self, walks: Sequence[RecordWalk], logits: torch.Tensor) -> tuple[list[int], list[float]]:
        """The most probable allowed token of each row, and the logarithm of its share among the allowed ones.

        `logits` [rows, vocabulary]. The lowest id wins among equals, as in the reference decoder.
        """
        logits = logits.float()
        tokens = torch.empty(len(walks), dtype=torch.long, device=self._device)
        shares = torch.empty(len(walks), dtype=torch.float32, device=self._device)
        in_text = [row for row, walk in enumerate(walks) if walk.text is not None]
        listed = [row for row, walk in enumerate(walks) if walk.text is None]
        for rows, choose in ((in_text, self._choose_text), (listed, self._choose_listed)):
            if rows:
                index = torch.tensor(rows, device=self._device)
                tokens[index], shares[index] = choose([walks[row] for row in rows], logits[index])
        return tokens.tolist(), shares.tolist()

    def _choose_text(self, walks: Sequence[RecordWalk], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._cost is not None
        spans = [walk.text for walk in walks]
        states = torch.tensor([walk.text_state for walk in walks], device=self._device)
        left = torch.tensor([walk.text_left_capped for walk in walks], dtype=torch.int32, device=self._device)
        fits = self._cost[states] <= left[:, None]
        ending = [row for row, walk in enumerate(walks) if walk.may_end_text]
        if ending:
            terminators = [span.terminator for row in ending if (span := spans[row]) is not None]
            fits[torch.tensor(ending, device=self._device), torch.tensor(terminators, device=self._device)] = True
        allowed = logits[:, : fits.shape[1]].masked_fill(~fits, -torch.inf)
        share, token = torch.log_softmax(allowed, dim=-1).max(dim=-1)
        return token, share

    def _choose_listed(self, walks: Sequence[RecordWalk], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lists = [walk.allowed().tolist() for walk in walks]
        longest = max(map(len, lists))
        padded = [row + [_NO_TOKEN] * (longest - len(row)) for row in lists]
        ids = torch.tensor(padded, device=self._device)
        allowed = logits.gather(1, ids.clamp(min=0)).masked_fill(ids == _NO_TOKEN, -torch.inf)
        share, place = torch.log_softmax(allowed, dim=-1).max(dim=-1)
        return ids.gather(1, place[:, None])[:, 0], share

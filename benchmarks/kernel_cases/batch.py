"""The batch that every kernel is measured on: rows that have read their tickets behind one prefix, and their next tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from triagekit.decoding.key_value_store import KeyValueStore
from triagekit.decoding.passes import PrefixPass, PromptPass, RecordPass
from triagekit.decoding.prefixed_attention import last_hidden_states

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Rows of a batch, tokens of the prefix, and tokens of each row's ticket."""

    rows: int = 64
    prefix: int = 248
    ticket: int = 100

    def passes(self, choices: tuple[int, ...] = (1, 4)) -> dict[int, int]:
        """New tokens a row → tokens of its own before them: a choice behind the ticket, and the pass that reads it."""
        return {**dict.fromkeys(choices, self.ticket), self.ticket: 0}


class Rows:
    """One batch of a model, to be used inside `prefixed_attention_of(model)`."""

    def __init__(self, model: Any, size: Size) -> None:
        """Reads the prefix and the tickets."""
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.config.vocab_size
        self._model, self._size = model, size
        self._prefix = PrefixPass(torch.randint(1, vocabulary, (size.prefix,), generator=generator).tolist(), CPU)
        self._tickets = torch.randint(1, vocabulary, (size.rows, size.ticket), generator=generator)
        self._records = torch.randint(1, vocabulary, (size.rows, max(size.passes())), generator=generator)
        last_hidden_states(model, self._prefix)
        self._store = KeyValueStore(self._prefix, size.rows)
        self.run(size.ticket)

    def run(self, width: int, states: Any = last_hidden_states) -> torch.Tensor:
        """The pass of `width` new tokens a row, its book-keeping included → [rows, H]. Repeated, it gives the same."""
        return states(self._model, self._pass(width))

    def _pass(self, width: int) -> PromptPass | RecordPass:
        rows = range(self._size.rows)
        if width == self._size.ticket:
            return PromptPass(self._store, rows, self._tickets.tolist(), CPU)
        stored = [self._size.ticket] * len(rows)
        return RecordPass(self._store, rows, stored, self._records, [0] * len(rows), [width] * len(rows))

    def save(self, file: Path) -> None:
        """What `peers/decoder_layers.py` reads, with the states that every pass gives, for a batch on plain torch."""
        ids = {width: self._records[:, :width] for width in self._size.passes()} | {self._size.ticket: self._tickets}
        layers = range(len(self._prefix.layers))
        tensors = {}
        for width, stored in self._size.passes().items():
            tensors[f"ids_{width}"] = ids[width].contiguous()
            tensors[f"stored_{width}"] = torch.tensor(stored)
            tensors[f"states_{width}"] = self.run(width)
        for number, part in enumerate(("keys", "values")):
            tensors[f"prefix_{part}"] = torch.cat([self._prefix.layers[layer][number] for layer in layers])
            own = torch.stack([self._store.own[layer][number] for layer in layers])
            tensors[part] = own[:, :, :, : self._size.ticket].contiguous()
        save_file(tensors, file)

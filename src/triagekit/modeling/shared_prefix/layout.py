"""Where everything lies in a packed sequence of rows that share prefixes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Seen = Callable[[Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""(row of the batch, head, place of a query, place of a key) → whether it is seen, element by element."""


class PrefixSpan(NamedTuple):
    """A prefix at [start, end) of the packed sequence; its rows' own tokens follow in [end, rows_end)."""

    start: int
    end: int
    rows_end: int


@dataclass(frozen=True)
class PaddedBlock:
    """Units of unequal length as a rectangle, padded on the right: what attention of each unit to itself is given.

    `index` [units, width] is the packed place of each cell, and some place of the same unit where `valid` is False;
    `tokens` are the places of the valid cells, row by row. Under a causal mask no valid cell sees what stands right of it.
    """

    index: torch.Tensor
    valid: torch.Tensor
    tokens: torch.Tensor

    @staticmethod
    def of(starts: Sequence[int], lengths: Sequence[int]) -> PaddedBlock:
        """The block of units that begin at `starts`, each of at least one token."""
        columns = torch.arange(max(lengths))
        begin = torch.tensor(starts)[:, None]
        valid = columns < torch.tensor(lengths)[:, None]
        index = torch.where(valid, begin + columns, begin)
        return PaddedBlock(index, valid, index[valid])

    def to(self, device: torch.device) -> PaddedBlock:
        """The same block on another device."""
        return PaddedBlock(self.index.to(device), self.valid.to(device), self.tokens.to(device))

    def take(self, packed: torch.Tensor) -> torch.Tensor:
        """[heads, T, …] to [units, heads, width, …]; padding holds other values of the same unit."""
        return packed[:, self.index].transpose(0, 1)

    def give(self, block: torch.Tensor) -> torch.Tensor:
        """[units, heads, width, …] to [heads, valid cells, …], in the order of `tokens`."""
        return block.transpose(0, 1)[:, self.valid]


@dataclass(frozen=True)
class SharedPrefixLayout:
    """A packed sequence of T tokens: group by group the prefix, then the own tokens of the rows that begin with it.

    `positions` [T] count from the start of each row's prompt, `longest` is one more than the largest. `starts` are the
    places of the rows' first own tokens. `units` [T] numbers prefixes and rows, `prefixes_of` [T] is
    the number of the prefix that a token sees, its own for tokens of a prefix; both tell who may see whom. `blocks` are the
    prefixes and the rows, for attention within each. A row without a prefix is a group of its own, with no span.
    """

    rows: int
    longest: int
    starts: torch.Tensor
    positions: torch.Tensor
    units: torch.Tensor
    prefixes_of: torch.Tensor
    spans: tuple[PrefixSpan, ...]
    blocks: tuple[PaddedBlock, ...]
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    _block_masks: dict[int | None, BlockMask] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(groups: Sequence[tuple[int, Sequence[int]]]) -> SharedPrefixLayout:
        """The layout of `groups`, each the length of a prefix (0: none) and the lengths of its rows' own tokens."""
        spans: list[PrefixSpan] = []
        positions: list[torch.Tensor] = []
        units: list[tuple[int, int, int]] = []
        prefixes: list[tuple[int, int]] = []
        rows: list[tuple[int, int]] = []
        place = 0
        for prefix, lengths in groups:
            owner, start = len(units), place
            if prefix:
                units.append((owner, owner, prefix))
                prefixes.append((place, prefix))
                positions.append(torch.arange(prefix))
                place += prefix
            for length in lengths:
                number = len(units)
                units.append((number, owner if prefix else number, length))
                rows.append((place, length))
                positions.append(torch.arange(prefix, prefix + length))
                place += length
            if prefix:
                spans.append(PrefixSpan(start, start + prefix, place))
        numbers, owners, counts = (torch.tensor(column) for column in zip(*units, strict=True))
        return SharedPrefixLayout(
            rows=len(rows),
            longest=max(len(each) and int(each[-1]) + 1 for each in positions),
            starts=torch.tensor([start for start, _ in rows]),
            positions=torch.cat(positions),
            units=numbers.repeat_interleave(counts),
            prefixes_of=owners.repeat_interleave(counts),
            spans=tuple(spans),
            blocks=tuple(PaddedBlock.of(*zip(*kind, strict=True)) for kind in (prefixes, rows) if kind),
        )

    def to(self, device: torch.device) -> SharedPrefixLayout:
        """The same layout on another device."""
        if self.positions.device == device:
            return self
        return replace(
            self,
            starts=self.starts.to(device),
            positions=self.positions.to(device),
            units=self.units.to(device),
            prefixes_of=self.prefixes_of.to(device),
            blocks=tuple(block.to(device) for block in self.blocks),
            _masks={},
            _block_masks={},
        )

    def seen(self, window: int | None = None) -> Seen:
        """Who sees whom, as a function of places in the packed sequence; with `window`, only tokens less than so many positions
        back."""

        def seen(row: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            own = self.units[query] == self.units[key]
            related = (own | (self.prefixes_of[query] == self.units[key])) & (key <= query)
            return related if window is None else related & (self.positions[key] > self.positions[query] - window)

        return seen

    def mask(self, window: int | None = None) -> torch.Tensor:
        """The same for all pairs, boolean [T, T].

        Quadratic in T: for the few kinds of attention that cannot be taken apart, where nothing better is at hand.
        """
        if window not in self._masks:
            places = torch.arange(len(self.positions), device=self.positions.device)
            self._masks[window] = self.seen(window)(None, None, places[:, None], places)
        return self._masks[window]

    def block_mask(self, window: int | None = None) -> BlockMask:
        """The same as FlexAttention reads it: blocks of places in which somebody sees somebody."""
        if window not in self._block_masks:
            from torch.nn.attention.flex_attention import create_block_mask

            tokens = len(self.positions)
            self._block_masks[window] = create_block_mask(
                self.seen(window), None, None, tokens, tokens, device=self.positions.device
            )
        return self._block_masks[window]

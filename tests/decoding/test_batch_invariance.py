"""A ticket's record and confidences are the same bit for bit in whatever company it is decoded."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scoring_helpers import SCHEMAS, many_tickets, segments_for

from triagekit.decoding.batch_invariance import column_padded, in_company, log_share, with_company
from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.record import DecodedRecord
from triagekit.modeling.base import load_base, load_tokenizer
from triagekit.modeling.int8_linear import to_int8
from triagekit.modeling.packed_linear import pack_linears
from triagekit.modeling.row_blocks import ROWS, in_row_blocks

compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    and not os.environ.get("TRIAGEKIT_REQUIRE_COMPILER"),
    reason="no C++ compiler here",
)


@pytest.fixture
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def products_are_steady() -> bool:
    """Whether this machine's matrix product gives a row the same numbers among any multiple of four."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(512, 256, generator=generator), torch.randn(768, 256, generator=generator)
    whole = nn_linear(rows, weight)
    return all(torch.equal(nn_linear(rows[:count], weight), whole[:count]) for count in range(4, 512, 4))


def nn_linear(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(rows, weight)


def decoded(
    model: Any, segments: Any, texts: list[str], batch_size: int, threads: int, order: int
) -> list[DecodedRecord]:
    """Records in the order of `texts`, decoded in another."""
    torch.set_num_threads(threads)
    places = list(range(len(texts)))
    random.Random(order).shuffle(places)
    found = BatchedDecoder(model, segments, batch_size=batch_size).decode([texts[place] for place in places])
    return [record for _, record in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])]


@compiler
@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("precision", ["fp32", "packed", "int8"])
@pytest.mark.parametrize("name", ["corners", "desk", "labels, compact"])
def test_neither_batch_nor_order_nor_threads_change_a_bit(precision: str, name: str) -> None:
    if not products_are_steady():
        pytest.skip("this machine's matrix product has other roads than those that are known")
    model = load_base("embedded", precision="fp32", device="cpu").requires_grad_(False)
    if precision == "int8":
        to_int8(model)
    if precision == "packed":
        assert pack_linears([model])
    segments = segments_for(load_tokenizer("embedded"), SCHEMAS[name])
    texts = many_tickets(70)
    whole = decoded(model, segments, texts, batch_size=70, threads=1, order=0)
    for batch_size, threads in ((1, 1), (3, 2), (7, 1), (32, 2), (64, 4)):
        some = texts[:12] if batch_size < 7 else texts
        assert decoded(model, segments, some, batch_size, threads, order=batch_size) == whole[: len(some)]


@pytest.mark.parametrize(("rows", "expected"), [(1, [0, 0, 0, 0]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4, 4, 4, 4])])
def test_rows_come_in_fours(rows: int, expected: list[int]) -> None:
    assert in_company(rows).tolist() == expected
    states = torch.arange(rows * 3.0).reshape(rows, 3)
    assert torch.equal(with_company(states), states[expected])


def test_many_rows_come_in_few_numbers() -> None:
    numbers: set[int] = set()

    def seen(states: torch.Tensor) -> torch.Tensor:
        numbers.add(len(states))
        return states

    for rows in range(1, 8193):
        in_row_blocks(seen, torch.from_numpy(in_company(rows))[:, None])
    assert len(numbers) <= 40 and all(number % 4 == 0 for number in numbers)
    assert all(len(in_company(rows)) < 1.13 * rows for rows in range(65, 8193))


@pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS, 3 * ROWS + 5])
def test_blocks_of_rows_are_put_together_again(rows: int) -> None:
    states = torch.arange(rows * 3.0).reshape(1, rows, 3)
    doubled = in_row_blocks(lambda block: torch.cat([block, block], dim=-1), states)
    assert torch.equal(doubled, torch.cat([states, states], dim=-1))


def test_columns_are_filled_with_zeros() -> None:
    weight = torch.ones(17, 5)
    padded = column_padded(weight)
    assert padded.shape == (32, 5) and torch.equal(padded[:17], weight) and not padded[17:].any()
    assert column_padded(weight[:16]).shape == (16, 5)
    assert column_padded(torch.ones(3)).tolist() == [1.0] * 3 + [0.0] * 13


def test_shares_do_not_depend_on_what_is_not_allowed() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 13, generator=generator) * 3
    best = logits.max(dim=1).values
    narrow = log_share(best, logits)
    assert torch.allclose(narrow, best - logits.logsumexp(1), atol=1e-6)
    for width in (14, 31, 200):
        wide = torch.cat([logits, torch.full((500, width - 13), -torch.inf)], dim=1)
        assert torch.equal(log_share(best, wide), narrow)

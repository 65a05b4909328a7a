"""The compiled loops give what torch gives, and nothing is lost where they cannot be had."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from scoring_helpers import SCHEMAS, TICKETS, segments_for
from test_decoder import sharp_model
from torch import nn

from triagekit.decoding.decoder import BatchedDecoder
from triagekit.decoding.kernels import build
from triagekit.decoding.kernels.packed_attention import PackedAttention
from triagekit.decoding.kernels.pointwise import fused_pointwise
from triagekit.decoding.kernels.text_choice import TextChoice
from triagekit.modeling.int8_linear import Int8Linear

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    and not os.environ.get("TRIAGEKIT_REQUIRE_COMPILER"),
    reason="no C++ compiler here",
)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Libraries are made anew, in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.library.cache_clear()
    yield tmp_path / "cache" / "triagekit" / "kernels"
    build.library.cache_clear()


@pytest.mark.parametrize(
    ("heads", "key_heads", "dimension"), [(8, 2, 32), (7, 1, 64), (6, 6, 80), (3, 1, 16), (2, 1, 128)]
)
@pytest.mark.parametrize("window", [None, 5, 40])
@pytest.mark.parametrize("with_prefix", [True, False])
def test_packed_attention(heads: int, key_heads: int, dimension: int, window: int | None, with_prefix: bool) -> None:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 2

    key, value = random(5 * 70, key_heads, dimension), random(5 * 70, key_heads, dimension)
    kernel = PackedAttention.for_keys(key.transpose(0, 1), value.transpose(0, 1))
    assert kernel is not None
    keys, values = torch.zeros(5, key_heads, dimension, 96), torch.zeros(5, key_heads, 96, dimension)
    slots, places = torch.arange(5).repeat_interleave(70), torch.arange(70).repeat(5)
    # In two calls, and with the heads outside as models hand them over.
    for part in (slice(0, 100), slice(100, None)):
        kernel.keep(keys, values, key[part].transpose(0, 1), value[part].transpose(0, 1), slots[part], places[part])
    asked = torch.tensor([0, 31, 32, 33, 63, 64, 69, 5, 1])
    of_slot = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    query = random(len(asked), heads, dimension).transpose(0, 1)
    length = 37 if with_prefix else 0
    prefix_keys, prefix_values = random(key_heads, length, dimension), random(key_heads, length, dimension)
    prefix = kernel.prefix(prefix_keys, prefix_values) if with_prefix else None
    shared, scale = heads // key_heads, dimension**-0.5
    output = kernel.attend(query, prefix, length, (keys, values), of_slot, asked, scale, window)
    assert output.shape == (len(asked), heads, dimension)
    for token, (slot, place) in enumerate(zip(of_slot.tolist(), asked.tolist(), strict=True)):
        own = slice(slot * 70, slot * 70 + place + 1)
        seen = slice(-window if window else 0, None)
        for head in range(heads):
            both_keys = torch.cat([prefix_keys[head // shared], key[own, head // shared]])[seen]
            both_values = torch.cat([prefix_values[head // shared], value[own, head // shared]])[seen]
            scores = (query[head, token].double() @ both_keys.double().T) * scale
            expected = scores.softmax(-1) @ both_values.double()
            assert output[token, head] == pytest.approx(expected.float(), abs=2e-5)


def test_many_tokens_on_several_threads_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    key = torch.randn(2, 600, 32, generator=generator)
    kernel = PackedAttention.for_keys(key, key)
    assert kernel is not None
    keys, values = torch.zeros(10, 2, 32, 64), torch.zeros(10, 2, 64, 32)
    slots, places = torch.arange(10).repeat_interleave(60), torch.arange(60).repeat(10)
    kernel.keep(keys, values, key, key, slots, places)
    query = torch.randn(4, 600, 32, generator=generator)
    arguments = (query, kernel.prefix(key, key), 600, (keys, values), slots, places, 0.2, None)
    one = kernel.attend(*arguments)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(kernel.attend(*arguments), one)


@pytest.mark.parametrize("key", [torch.zeros(1, 2, 24), torch.zeros(1, 2, 32, dtype=torch.bfloat16)])
def test_what_it_cannot_take_is_left_to_torch(key: torch.Tensor) -> None:
    assert PackedAttention.for_keys(key, key) is None


class Norm(nn.Module):
    def __init__(self, width: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.offset = nn.Parameter(torch.randn(width)), 1e-6, offset

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden_states.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return hidden_states * scale * (self.weight + self.offset)


class OffsetNorm(Norm):
    """As Gemma has it: what looks alike and computes something else."""

    def __init__(self, width: int) -> None:
        super().__init__(width, offset=1.0)


class Gated(nn.Module):
    def __init__(self, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(20, 37), nn.Linear(20, 37), nn.Linear(37, 20)
        self.act_fn = act_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


@torch.inference_mode()
@pytest.mark.parametrize("width", [16, 37, 64])
def test_fused_norms_and_networks_give_the_same(width: int) -> None:
    model = nn.ModuleList([Norm(width), OffsetNorm(width), Gated(nn.SiLU()), Gated(nn.GELU())])
    numbers, inputs = torch.randn(3, 5, width) * 30, torch.randn(2, 9, 20) * 40
    given = (numbers, numbers, inputs, inputs)
    before = [module(each) for module, each in zip(model, given, strict=True)]
    with fused_pointwise(model):
        replaced = ["forward" in vars(module) for module in model]
        assert replaced == [True, False, True, False]
        for module, each, expected in zip(model, given, before, strict=True):
            assert module(each) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        # What the loops cannot read goes the old way.
        strided = torch.randn(5, 3, width).transpose(0, 1)
        assert model[0](strided) == pytest.approx(Norm.forward(model[0], strided), rel=1e-5, abs=1e-5)  # type: ignore[arg-type]
    assert not any("forward" in vars(module) for module in model)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3"])
def test_fused_rotary_embeddings_give_the_same(family: str) -> None:
    """In a model's own attention module, whatever its tensors look like; nothing is left changed in the library."""
    import importlib

    library = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    own = library.apply_rotary_pos_emb
    calls = []

    class Attention(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
            calls.append(apply_rotary_pos_emb)  # type: ignore[name-defined]  # noqa: F821
            return apply_rotary_pos_emb(q, k, cos, sin)  # type: ignore[name-defined]  # noqa: F821

    # A forward that finds the function among its globals, as those of the library do.
    from types import FunctionType

    Attention.forward = FunctionType(  # type: ignore[method-assign]
        Attention.forward.__code__, vars(library), "forward", None, Attention.forward.__closure__
    )
    module = Attention()
    query, key = torch.randn(1, 7, 4, 32).transpose(1, 2), torch.randn(1, 7, 2, 32).transpose(1, 2)
    angles = torch.randn(1, 7, 32)
    cases = [
        (query, key, angles.cos(), angles.sin()),
        (query.contiguous(), key.contiguous(), angles.cos(), angles.sin()),
        (query.double(), key.double(), angles.cos().double(), angles.sin().double()),
        (torch.cat([query, query]), torch.cat([key, key]), angles.cos(), angles.sin()),
    ]
    expected = [own(*case) for case in cases]
    with fused_pointwise(nn.ModuleList([module])):
        assert "forward" in vars(module)
        for case, both in zip(cases, expected, strict=True):
            for found, each in zip(module(*case), both, strict=True):
                assert found.dtype == each.dtype and found.shape == each.shape
                assert torch.allclose(found, each, rtol=1e-5, atol=1e-5)
    assert all(each is not own for each in calls) and library.apply_rotary_pos_emb is own
    module(*cases[0])
    assert calls[-1] is own


@pytest.mark.parametrize("vocabulary", [5, 48, 1003])
def test_text_choices(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    rows = 64
    costs = torch.randint(1, 9, (4, vocabulary), generator=generator, dtype=torch.int32)
    # Equal logits are not rare where a model was rounded: the lowest id wins.
    logits = torch.randn(rows, vocabulary + 3, generator=generator).mul(3).round()
    state = torch.randint(0, 4, (rows,), generator=generator)
    left = torch.randint(0, 9, (rows,), generator=generator, dtype=torch.int32)
    terminator = torch.randint(0, vocabulary, (rows,), generator=generator)
    may_end = left % 2 == 1
    fits = costs[state] <= left[:, None]
    fits[torch.arange(rows), terminator] |= may_end
    kernel = TextChoice.for_costs(costs)
    assert kernel is not None
    token, share = kernel.choose(logits, state, left, terminator, may_end)
    expected = logits[:, :vocabulary].double().masked_fill(~fits, -torch.inf)
    some = fits.any(1)
    assert 0 < int(some.sum()) < rows
    best = expected.amax(1)
    assert token[some].tolist() == [
        min(int(i) for i in torch.where(row == high)[0]) for row, high in zip(expected[some], best[some], strict=True)
    ]
    assert share[some] == pytest.approx((best - expected.logsumexp(1))[some].float(), abs=1e-6)
    assert (token[~some] == -1).all()


def test_libraries_are_made_once_and_kept(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert all(
            found is not None for found in pool.map(lambda _: build.library.__wrapped__("packed_attention"), range(4))
        )
    (made,) = own_cache.iterdir()
    changed = made.stat().st_mtime_ns
    build.library.cache_clear()
    assert build.library("packed_attention") is not None
    assert made.stat().st_mtime_ns == changed and list(own_cache.iterdir()) == [made]


@pytest.mark.parametrize("trouble", ["off", "no compiler", "a compiler that fails", "no room"])
def test_without_them_torch_writes_the_same_records(
    trouble: str,
    own_cache: Path,
    tmp_path: Path,
    tiny_model_folder: Path,
    byte_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="triagekit")
    model, segments = sharp_model(tiny_model_folder), segments_for(byte_tokenizer, SCHEMAS["desk"])
    with_kernels = BatchedDecoder(model, segments, batch_size=4).decode(TICKETS)
    assert list(own_cache.iterdir())
    build.library.cache_clear()
    shutil.rmtree(own_cache)
    if trouble == "off":
        monkeypatch.setenv(build.KERNELS, "off")
    elif trouble == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif trouble == "a compiler that fails":
        failing = tmp_path / "c++"
        failing.write_text("#!/bin/sh\necho 'packed_attention.cpp:1: no such vectors' >&2\nexit 1\n")
        failing.chmod(failing.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(failing))
    else:
        own_cache.parent.rmdir()
        own_cache.parent.write_text("a file where the folder should be")
    without = BatchedDecoder(model, segments, batch_size=4).decode(TICKETS)
    for one, other in zip(with_kernels, without, strict=True):
        assert (one.text, one.record) == (other.text, other.record)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
    assert not own_cache.is_dir() or not list(own_cache.iterdir())
    said = {
        "no compiler": "No C++ compiler",
        "a compiler that fails": "no such vectors",
        "no room": "packed_attention.cpp",
    }
    assert said.get(trouble, "") in caplog.text


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inner", "columns"), [(256, 768), (72, 40), (64, 16)])
def test_fused_8_bit_layers_give_the_same(inner: int, columns: int, bias: bool) -> None:
    torch.manual_seed(2)
    layers = nn.ModuleList(Int8Linear(nn.Linear(inner, columns, bias=bias)) for _ in range(2))
    states = [torch.randn(3, 7, inner) * 5, torch.zeros(1, 4, inner), torch.randn(2, inner)]
    expected = [[layer(each) for layer in layers] for each in states]
    with torch.inference_mode(), fused_pointwise(layers):
        assert all("forward" in vars(layer) for layer in layers)
        for each, of_layers in zip(states, expected, strict=True):
            # The second layer reads what the first has quantised; another input is not taken for it.
            for layer, wanted in zip(layers, of_layers, strict=True):
                assert torch.allclose(layer(each), wanted, rtol=1e-6, atol=1e-6)
        half = states[0].bfloat16()
        assert layers[0](half).dtype == torch.bfloat16

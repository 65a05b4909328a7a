"""The decoder's pass as it is, on plain torch and compiled: each a case that runs a number of passes and counts its seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from decoding_loops import CASES, left_to_torch
from kernel_cases.batch import Rows, Size
from peers.decoder_layers import DecoderLayers, pass_inputs
from safetensors.torch import load_file

from triagekit.decoding.prefixed_attention import last_hidden_states, prefixed_attention_of
from triagekit.modeling.base import load_base
from triagekit.modeling.int8_linear import to_int8
from triagekit.modeling.packed_linear import pack_linears

Seconds = dict[str, float]


class Case(Protocol):
    """One way to compute a pass."""

    def begin(self, width: int) -> dict[str, float]:
        """The first pass of this width: its `difference` from the plain one's states, and `compile_seconds` where it compiles."""

    def run(self, width: int, times: int) -> Seconds:
        """`wall` and `cpu` seconds of one of `times` passes."""


class OnAllThreads:
    """A pass as one function, on all threads at once."""

    def __init__(
        self, states: Callable[[int], torch.Tensor], expected: dict[int, torch.Tensor], compiles: bool
    ) -> None:
        self._states, self._expected, self._compiles = states, expected, compiles

    def begin(self, width: int) -> dict[str, float]:
        """See Case."""
        begun = time.perf_counter()
        found = self._states(width)
        seconds = time.perf_counter() - begun
        expected = self._expected[width]
        difference = float((found - expected).abs().max() / expected.abs().max())
        return {"difference": difference} | ({"compile_seconds": seconds} if self._compiles else {})

    def run(self, width: int, times: int) -> Seconds:
        """See Case."""
        with clock(times) as seconds:
            for _ in range(times):
                self._states(width)
        return seconds


class InLanes(OnAllThreads):
    """As many passes at once as there are threads, a thread each: how the decoder deals with a large batch."""

    def __init__(self, lanes: list[Rows], expected: dict[int, torch.Tensor]) -> None:
        super().__init__(lanes[0].run, expected, compiles=False)
        self._lanes = lanes

    def run(self, width: int, times: int) -> Seconds:
        """See Case."""
        turns = -(-times // len(self._lanes))

        @torch.inference_mode()
        def lane(rows: Rows) -> None:
            for _ in range(turns):
                rows.run(width)

        with (
            ThreadPoolExecutor(len(self._lanes), initializer=torch.set_num_threads, initargs=(1,)) as pool,
            clock(turns * len(self._lanes)) as seconds,
        ):
            list(pool.map(lane, self._lanes))
        torch.set_num_threads(len(self._lanes))  # of threads to come, which begin with what was set last
        return seconds


@contextmanager
def clock(passes: int) -> Iterator[Seconds]:
    """Seconds of each of `passes` passes, there when the block has ended."""
    seconds: Seconds = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield seconds
    seconds["cpu"] = (time.process_time() - cpu) / passes
    seconds["wall"] = (time.perf_counter() - wall) / passes


@contextmanager
def torch_cases(base: str, size: Size, file: Path, threads: int, compiled: bool) -> Iterator[dict[str, Case]]:
    """Cases by name, inside the block. `file` gets the batch (see Rows.save)."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        plain = _model(base, stack, left_out=CASES["none"])
        with left_to_torch(CASES["none"]):
            rows = Rows(plain, size)
        rows.save(file)
        expected = {width: rows.run(width) for width in size.passes()}
        cases: dict[str, Case] = {}
        for name, int8 in (("ours", False), ("ours, int8", True)):
            model = _model(base, stack, int8=int8)
            lanes = [Rows(model, size) for _ in range(threads)]
            cases[name] = InLanes(lanes, expected)
            cases[f"{name}, one pass"] = OnAllThreads(lanes[0].run, expected, compiles=False)
        cases["plain torch"] = OnAllThreads(rows.run, expected, compiles=False)
        cases["layers, plain torch"] = _layers(base, file, expected, compiled=False)
        if compiled:
            # Beyond the limit dynamo would go on without compiling, unsaid; what other models have left counts towards it.
            torch.compiler.reset()
            stack.enter_context(torch._dynamo.config.patch(fail_on_recompile_limit_hit=True))
            for name, dynamic in (("static", False), ("dynamic", True)):
                cases[f"torch.compile, {name}"] = _compiled(rows, expected, dynamic)
            cases["layers, torch.compile"] = _layers(base, file, expected, compiled=True)
        yield cases


def _model(base: str, stack: ExitStack, int8: bool = False, left_out: tuple[str, ...] = ()) -> Any:
    """A model that attends over packed rows until the stack ends."""
    model = load_base(base, "fp32", device="cpu").requires_grad_(False)
    if int8:
        to_int8(model)
    with left_to_torch(left_out):
        pack_linears([model])
        stack.enter_context(prefixed_attention_of(model))
    return model


def _compiled(rows: Rows, expected: dict[int, torch.Tensor], dynamic: bool) -> Case:
    """The plain pass through dynamo and inductor; the host's book-keeping of it stays as it is."""
    states = torch.compile(last_hidden_states, dynamic=dynamic)
    return OnAllThreads(lambda width: rows.run(width, states), expected, compiles=True)


def _layers(base: str, file: Path, expected: dict[int, torch.Tensor], compiled: bool) -> Case:
    """The layers as one function of tensors; compiled with their weights frozen, so that inductor lays these out too."""
    tensors = load_file(file)
    given = {width: pass_inputs(tensors, "shared", width) for width in expected}
    layers = DecoderLayers(Path(base), "shared", max(int(each[1].max()) for each in given.values()) + 1).eval()
    function = torch.compile(layers, dynamic=False, options={"freezing": True}) if compiled else layers
    return OnAllThreads(lambda width: function(*given[width])[0], expected, compiled)

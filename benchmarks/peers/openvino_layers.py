"""OpenVINO on a decoder's layers alone: no sampling, no scheduler, keys and values in and out as tensors.

    python openvino_layers.py MODEL BATCH.safetensors THREADS

A case is FORM-WEIGHTS-STREAMS, such as `shared-fp32-1`. With two streams two passes run at once, on half of the threads each.
It answers every line of its input, {"case": …, "width": …, "times": …}, with one of seconds for a pass. The first line about a
case and a width compiles it, for these shapes alone, and tells how far its states are from those in the file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import nncf
import openvino
import torch
from decoder_layers import DecoderLayers, pass_inputs
from safetensors.torch import load_file
from torch import nn


class Flat(nn.Module):
    """The layers with every tensor a parameter of its own, as the converter wants them."""

    def __init__(self, layers: DecoderLayers) -> None:
        super().__init__()
        self.layers, self._count = layers, len(layers.layers)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, *pairs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`pairs`: the lists of DecoderLayers.forward, one behind the other."""
        lists = [list(pairs[begin : begin + self._count]) for begin in range(0, len(pairs), self._count)]
        states, keys, values = self.layers(ids, positions, *lists, *([[], []] if len(lists) == 2 else []))
        return states, *keys, *values


class Case:
    """One compiled pass."""

    def __init__(self, folder: Path, tensors: dict[str, torch.Tensor], name: str, width: int, threads: int) -> None:
        form, weights, streams = name.split("-")
        given = pass_inputs(tensors, form, width)
        flat = [*given[:2], *(tensor for part in given[2:] for tensor in part)]
        begun = time.perf_counter()
        with torch.inference_mode():
            layers = Flat(DecoderLayers(folder, form, int(given[1].max()) + 1)).eval()
            # Nothing that is fixed is left to a later call: the shapes of this pass, and no others.
            model = openvino.convert_model(layers, example_input=tuple(flat), input=[tensor.shape for tensor in flat])
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        properties["NUM_STREAMS"] = int(streams)
        if weights != "fp32":
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        self._compiled = openvino.Core().compile_model(model, "CPU", properties)
        self._requests = [self._compiled.create_infer_request() for _ in range(int(streams))]
        for request in self._requests:
            for place, tensor in enumerate(flat):
                request.set_input_tensor(place, openvino.Tensor(tensor.numpy()))
        self.compile_seconds = time.perf_counter() - begun
        self.run(1)
        expected = tensors[f"states_{width}"]
        found = torch.from_numpy(self._requests[0].get_output_tensor(0).data.copy())
        self.difference = float((found - expected).abs().max() / expected.abs().max())

    def run(self, times: int) -> dict[str, float]:
        """Seconds of one of `times` passes, rounded up to what the streams hold."""
        turns = -(-times // len(self._requests))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(turns):
            for request in self._requests:
                request.start_async()
            for request in self._requests:
                request.wait()
        passes = turns * len(self._requests)
        return {
            "wall": (time.perf_counter() - wall) / passes,
            "cpu": (time.process_time() - cpu) / passes,
        }


def main() -> None:
    folder, tensors, threads = Path(sys.argv[1]), load_file(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    # Libraries talk on the standard output, which is for answers: to them it is the other one.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cases: dict[tuple[str, int], Case] = {}
    for line in sys.stdin:
        wanted = json.loads(line)
        key = wanted["case"], wanted["width"]
        answer = {}
        if key not in cases:
            # The turns of one width come together; the passes of a large model take gigabytes.
            cases = {known: case for known, case in cases.items() if known[1] == wanted["width"]}
            case = cases[key] = Case(folder, tensors, *key, threads)
            answer = {"compile_seconds": case.compile_seconds, "difference": case.difference}
        print(json.dumps({**answer, **cases[key].run(wanted["times"])}), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""OpenVINO GenAI: continuous batching, prefix cache, structured output.

With fp32 weights everything is computed and kept in fp32. With int8 weights it does as it does by itself: activations
quantised on the way, keys and values in 8 bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import openvino
import openvino_genai
from request import Answer, Task, answer, read_request, until_end, written_tokens


def main() -> None:
    task, settings = read_request()
    pipeline = load(task, settings)
    options = generation(task, settings)

    def generate(places: list[int]) -> Answer:
        prompts = [
            openvino.Tensor(numpy.array([[*task.prefix, *task.own[place]]], dtype=numpy.int64)) for place in places
        ]
        results = pipeline.generate(prompts, [options] * len(prompts))
        return Answer(ids=[until_end(list(result.m_generation_ids[0]), task.end_id) for result in results])

    answer(task, generate, written_tokens)


def load(task: Task, settings: dict[str, Any]) -> openvino_genai.ContinuousBatchingPipeline:
    """The exported model that lies beside the plain one."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.max_num_seqs = settings["batch"]
    scheduler.max_num_batched_tokens = settings["step_tokens"]
    scheduler.cache_size = 2
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": task.threads, "INFERENCE_PRECISION_HINT": "f32"}
    if settings["weights"] == "fp32":
        # Its own choice on a CPU is 8 bits.
        properties["KV_CACHE_PRECISION"] = "f32"
    folder = exported(task, settings["weights"])
    return openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)


def exported(task: Task, weights: str) -> Path:
    """Where openvino_export.py puts the model."""
    return Path(f"{task.model}-openvino-{weights}")


def generation(task: Task, settings: dict[str, Any]) -> openvino_genai.GenerationConfig:
    """Greedy, under the schema."""
    options = openvino_genai.GenerationConfig()
    options.do_sample = False
    options.max_new_tokens = task.max_new_tokens
    options.eos_token_id = task.end_id
    options.stop_token_ids = {task.end_id}
    schema = task.schemas[settings["schema"]]
    structured = openvino_genai.StructuredOutputConfig()
    if isinstance(schema, str):
        structured.grammar = schema
    else:
        structured.json_schema = json.dumps(schema)
    options.structured_output_config = structured
    return options


if __name__ == "__main__":
    main()

"""vLLM's CPU build: continuous batching, prefix cache, structured output by xgrammar, fp32."""

from __future__ import annotations

import os

os.environ |= {
    # In this process, so that its CPU time and memory are seen; and no usage reports.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

from request import Answer, answer, read_request, until_end, written_tokens
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams


def main() -> None:
    task, settings = read_request()
    engine = LLM(
        model=task.model,
        dtype="float32",
        # Compiling takes longer than such a run, and gained nothing on a CPU.
        enforce_eager=True,
        enable_prefix_caching=True,
        max_num_seqs=settings["batch"],
        max_model_len=task.longest + 1,
        distributed_executor_backend="uni",
        structured_outputs_config={"backend": "xgrammar"},
        generation_config="vllm",
        seed=0,
    )
    schema = task.schemas[settings["schema"]]
    constraint = (
        StructuredOutputsParams(grammar=schema) if isinstance(schema, str) else StructuredOutputsParams(json=schema)
    )
    sampling = SamplingParams(
        temperature=0,
        max_tokens=task.max_new_tokens,
        stop_token_ids=[task.end_id],
        structured_outputs=constraint,
        detokenize=False,
    )

    def generate(places: list[int]) -> Answer:
        prompts = [{"prompt_token_ids": [*task.prefix, *task.own[place]]} for place in places]
        results = engine.generate(prompts, sampling, use_tqdm=False)
        return Answer(ids=[until_end(list(result.outputs[0].token_ids), task.end_id) for result in results])

    answer(task, generate, written_tokens)


if __name__ == "__main__":
    main()

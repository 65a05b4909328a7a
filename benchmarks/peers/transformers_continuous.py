"""transformers' own continuous batching over a paged cache, without a constraint: what it writes need not be a record."""

from __future__ import annotations

import importlib.util

import torch
from request import Answer, answer, read_request, until_end, written_tokens
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers_batches import load_model


def main() -> None:
    task, _ = read_request()
    torch.set_num_threads(task.threads)
    flash = task.device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    model = load_model(task, attn_implementation="flash_attention_2" if flash else "sdpa")
    config = GenerationConfig(
        do_sample=False, max_new_tokens=task.max_new_tokens, eos_token_id=task.end_id, pad_token_id=task.pad_id
    )

    # Its cache is sized by what is free, which on a CPU is the whole machine's.
    batching = ContinuousBatchingConfig(max_memory_percent=0.1 if task.device == "cpu" else None)

    def generate(places: list[int]) -> Answer:
        prompts = [task.prompts[place] for place in places]
        found = model.generate_batch(prompts, config, batching, persistent_manager=True)
        # Requests are numbered as they came; the manager does not promise to give them back so.
        ordered = sorted(found.values(), key=lambda output: int(output.request_id.rpartition("_")[2]))
        return Answer(ids=[until_end(output.generated_tokens, task.end_id) for output in ordered])

    answer(task, generate, written_tokens)


if __name__ == "__main__":
    main()

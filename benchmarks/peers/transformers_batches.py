"""transformers' `generate` over batches of tickets of like length: what its three scripts share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from request import Answer, Task, answer, read_request, until_end, written_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


def main(constrained: bool, shared_prefix: bool) -> None:
    task, settings = read_request()
    torch.set_num_threads(task.threads)
    engine = Batches(task, settings, constrained, shared_prefix)
    answer(task, engine.generate, written_tokens)


def load_model(task: Task, **options: Any) -> Any:
    """The task's model, on its device and in its precision."""
    kind = torch.bfloat16 if task.precision == "bf16" else torch.float32
    return AutoModelForCausalLM.from_pretrained(task.model, dtype=kind, **options).eval().to(task.device)


class Batches:
    """A loaded model. With `shared_prefix` the prefix's keys and values are computed once and repeated over the rows."""

    def __init__(self, task: Task, settings: dict[str, Any], constrained: bool, shared_prefix: bool) -> None:
        self.task = task
        self.batch = settings["batch"]
        self.model = load_model(task)
        self.grammar = self._compile(settings["schema"]) if constrained else None
        self.shared_prefix = shared_prefix
        self.cache: DynamicCache | None = None

    def generate(self, places: list[int]) -> Answer:
        """Longest tickets first, so that a batch holds little padding."""
        order = sorted(places, key=lambda place: len(self.task.own[place]), reverse=True)
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), self.batch):
            members = order[start : start + self.batch]
            found.update(zip(members, self._batch([self.task.own[place] for place in members]), strict=True))
        return Answer(ids=[found[place] for place in places])

    @torch.inference_mode()
    def _batch(self, own: list[list[int]]) -> list[list[int]]:
        task, prefix = self.task, self.task.prefix
        longest = max(map(len, own))
        padding = [[task.pad_id] * (longest - len(row)) for row in own]
        if self.shared_prefix:
            # The padding stands behind the prefix, whose keys are then at the same places in every row.
            rows = [[*prefix, *pad, *row] for pad, row in zip(padding, own, strict=True)]
            masks = [[1] * len(prefix) + [0] * len(pad) + [1] * len(row) for pad, row in zip(padding, own, strict=True)]
        else:
            rows = [[*pad, *prefix, *row] for pad, row in zip(padding, own, strict=True)]
            masks = [[0] * len(pad) + [1] * (len(prefix) + len(row)) for pad, row in zip(padding, own, strict=True)]
        out = self.model.generate(
            input_ids=torch.tensor(rows, device=task.device),
            attention_mask=torch.tensor(masks, device=task.device),
            do_sample=False,
            max_new_tokens=task.max_new_tokens,
            eos_token_id=task.end_id,
            pad_token_id=task.pad_id,
            **self._constraint(),
            **self._past(len(own)),
        )
        return [until_end(row, task.end_id) for row in out[:, len(rows[0]) :].tolist()]

    def _compile(self, form: str) -> Any:
        import xgrammar

        task = self.task
        info = xgrammar.TokenizerInfo.from_huggingface(
            AutoTokenizer.from_pretrained(task.model),
            vocab_size=self.model.config.vocab_size,
            stop_token_ids=[task.end_id],
        )
        compiler = xgrammar.GrammarCompiler(info)
        schema = task.schemas[form]
        if isinstance(schema, str):
            return compiler.compile_grammar(schema)
        return compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))

    def _constraint(self) -> dict[str, Any]:
        if self.grammar is None:
            return {}
        from xgrammar.contrib.hf import LogitsProcessor

        # It keeps the state of the rows it has seen, so every call takes a new one.
        return {"logits_processor": [LogitsProcessor(self.grammar)]}

    def _past(self, rows: int) -> dict[str, Any]:
        if not self.shared_prefix:
            return {}
        if self.cache is None:
            self.cache = DynamicCache(config=self.model.config)
            prefix = torch.tensor([self.task.prefix], device=self.task.device)
            self.model(input_ids=prefix, past_key_values=self.cache, logits_to_keep=1)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return {"past_key_values": cache}

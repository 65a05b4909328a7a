"""What PyTorch's allocator hands out in one real training step: the yardstick of the memory estimates.

As a program it reads cases (arguments of `measure`) as JSON and prints what each has taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

TINY = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 2000,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "max_position_embeddings": 1024,
}


def random_model(kind, dtype, **changes):
    """A small model of a family with random weights."""
    import transformers

    classes = {
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
        "llama": ("LlamaConfig", "LlamaForCausalLM"),
        "mistral": ("MistralConfig", "MistralForCausalLM"),
        "gemma": ("GemmaConfig", "GemmaForCausalLM"),
        "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
        "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
        "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM"),
        "granite": ("GraniteConfig", "GraniteForCausalLM"),
    }
    config, model = (getattr(transformers, name) for name in classes[kind])
    return model(config(**{**TINY, **changes})).to(dtype)


def peak_of_a_step(model, adapter, *, rows, length, trained, mixed, checkpointing=False):
    """(bytes that a step takes on top of weights and gradients at its peak, trained weights).

    The second step is measured: gradients are there already.
    """
    import torch

    from triagekit.modeling.adapters import attach_adapter
    from triagekit.training.loss import compute_losses_in_forward, token_losses

    token_ids = list(range(5, 105)) if adapter.head == "output_tokens" else None
    model, report = attach_adapter(model, adapter, token_ids)
    if checkpointing:
        options = {"use_reentrant": False}
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        inner.enable_input_require_grads()
    model.train()
    compute_losses_in_forward(model)
    ids = torch.randint(5, model.config.vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    labels = torch.full((rows, length), -100)
    labels[:, -trained:] = ids[:, -trained:]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            losses = token_losses(model, batch)
        loss = losses.weighted_sum / (rows * trained)
        del losses
        loss.backward()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step()
    return peak_of(step), report.trainable


def peak_of(work):
    """Bytes that PyTorch's allocator has out at the peak of `work()`, on top of those before it; it must leave none."""
    from torch.profiler import ProfilerActivity, profile

    with warnings.catch_warnings(), _silence():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert live == 0, "a step that leaves memory behind cannot be measured like this"
    return peak


@contextlib.contextmanager
def _silence():
    """The profiler writes to the file descriptor of stderr, past Python."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def measure(family, float32, adapter, checkpointing, changes, rows, length, trained):
    """`peak_of_a_step` of a random model."""
    import torch

    from triagekit.modeling.settings import AdapterSettings

    model = random_model(family, torch.float32 if float32 else torch.bfloat16, **changes)
    settings = AdapterSettings.model_validate(adapter)
    return peak_of_a_step(
        model, settings, rows=rows, length=length, trained=trained, mixed=not float32, checkpointing=checkpointing
    )


def measure_without_bfloat16_units(cases):
    """The same of many cases, in a process that takes the processor for one that does not multiply bfloat16.

    One that does spares some copies in a step, and the yardstick is to be the same everywhere.
    """
    source = Path(__file__).resolve().parents[2] / "src"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(cases), capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps([measure(*case) for case in json.load(sys.stdin)]))

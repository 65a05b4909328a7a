"""Peak memory of real training steps on a GPU against the plan's estimate, and the 4 GB rung under a hard 4 GB limit.

python benchmarks/gpu_memory.py                     # all sizes × methods × lengths, then the 4 GB rung
python benchmarks/gpu_memory.py --sizes 0.5B --methods lora qlora --lengths 512
python benchmarks/gpu_memory.py --only cap
python benchmarks/gpu_memory.py --small             # a small model, short rows and 1 GB, on the CPU: for trying it out

Models have the shapes of Qwen2.5 and random weights, so nothing is fetched. Each case runs in a process of its own: two
steps of one micro-batch through the trainer's own loss, with the optimizer. Without a GPU it says so and exits with 2;
--small goes the same way in bfloat16 on a CPU, where memory is the process's and the kernel keeps the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from models import MODELS
from record import write_record

from triagekit.hardware.devices import detect_devices
from triagekit.hardware.ladder import Rung, load_ladder
from triagekit.hardware.load import TrainingLoad
from triagekit.hardware.memory import estimate_memory
from triagekit.hardware.model_shape import model_shape, shape_of_config
from triagekit.hardware.rates import MeasuredRate

NO_GPU = 2
CAP_GB = 4.0
SMALL_CAP_GB = 1.0
SMALL = "45M"
SMALL_LENGTH = 96
TRAINED_TOKENS = 64
STEPS = 2
TIMED_STEPS = 8
SMALL_TIMED_STEPS = 1
SIZES = {size: f"Qwen/Qwen2.5-{size}" for size in ("0.5B", "1.5B", "3B")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--methods", nargs="+", choices=["lora", "hybrid", "qlora"], default=["lora", "hybrid", "qlora"]
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--micro", type=int, default=4, help="rows of a step (default: 4)")
    parser.add_argument("--only", choices=["grid", "cap"], help="one of the two parts")
    parser.add_argument("--cap", type=float, metavar="GB", help="the hard limit (default: 4, with --small 1)")
    parser.add_argument("--small", action="store_true", help="a small model on the CPU, for trying it out")
    parser.add_argument("--record", help="name of the record; `none` (default with --small) writes none")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(json.loads(options.case))))
        return 0
    devices = detect_devices()
    if not devices and not options.small:
        print("gpu_memory: this machine has no GPU that CUDA can use, so nothing was measured.", file=sys.stderr)
        return NO_GPU
    figures: dict[str, Any] = {"device": "CPU", "capability": None, "grid": [], "cap": None}
    if options.small:
        sizes, lengths, precision, cap = [SMALL], [SMALL_LENGTH], "bf16", options.cap or SMALL_CAP_GB
    else:
        print(f"On {devices[0].name}, {devices[0].memory_bytes / 2**30:.1f} GiB")
        figures |= {"device": devices[0].name, "capability": devices[0].capability}
        precision = "bf16" if (devices[0].capability or (0, 0)) >= (8, 0) else "fp16"
        sizes, lengths, cap = options.sizes, options.lengths, options.cap or CAP_GB
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "cap":
            for size in sizes:
                for method in options.methods:
                    for length in lengths:
                        case = grid_case(size, method, length, options.micro, precision, folder)
                        figures["grid"].append(run_case(case))
        if options.only != "grid":
            case = cap_case(folder) | ({"size": SMALL, "precision": precision} if options.small else {})
            figures["cap"] = run_case({**case, "cap_bytes": int(cap * 1e9)})
    measured = [row for row in figures["grid"] if row.get("measured_bytes")]
    if measured:
        figures["largest_error"] = max(abs(row["estimate_over_measured"] - 1) for row in measured)
        print(f"Largest error of an estimate: {figures['largest_error']:.1%} (goal: 10 %)")
    record = options.record or ("none" if options.small else "gpu_memory")
    if record != "none":
        print(write_record(record, figures))
    failed = [row for row in [*figures["grid"], figures["cap"] or {}] if row.get("error")]
    return 1 if failed else 0


def grid_case(size: str, method: str, length: int, micro: int, precision: str, folder: str) -> dict[str, Any]:
    """One cell of the grid: a load and the shape that it is put on."""
    return {
        "size": size,
        "method": "lora" if method == "qlora" else method,
        "bits": 4 if method == "qlora" else None,
        "length": length,
        "micro": micro,
        "precision": precision,
        "optimizer": "adamw",
        "gradient_checkpointing": True,
        "folder": folder,
    }


def cap_case(folder: str) -> dict[str, Any]:
    """The 4 GB rung as it ships, on 1.5 billion weights and rows of 512 tokens."""
    rung = load_ladder().rung("4GB")
    return {
        "size": "1.5B",
        "method": "lora",
        "bits": 4,
        "length": rung.max_length,
        "micro": rung.micro_batch,
        "precision": rung.precision,
        "optimizer": "paged_adamw_8bit",
        "gradient_checkpointing": rung.gradient_checkpointing,
        "folder": folder,
    }


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Measure in a child process: a process that ran out of memory measures nothing afterwards."""
    words = [sys.executable, __file__, "--case", json.dumps(case)]
    # On a CPU what is freed goes back at once, so that a peak is that of what was in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    shown = {key: value for key, value in case.items() if key != "folder"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        result = {**shown, "error": lines[-1][:300]}
    else:
        result = {**shown, **json.loads(done.stdout.strip().splitlines()[-1])}
    print(json.dumps(result), flush=True)
    return result


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Peak bytes of loading and training, beside the estimate. Runs in the child."""
    import time

    import torch
    from peak_memory import CpuMemory, GpuMemory

    from triagekit.modeling.adapters import attach_adapter
    from triagekit.modeling.base import load_base
    from triagekit.modeling.settings import AdapterSettings, QuantizationSettings
    from triagekit.training.loss import compute_losses_in_forward, token_losses

    small = case["size"] == SMALL
    folder = saved_model(case["size"], Path(case["folder"]), case["precision"])
    memory = CpuMemory() if small else GpuMemory()
    if "cap_bytes" in case:
        memory.limit(case["cap_bytes"])
    quantization = QuantizationSettings.model_validate({"bits": case["bits"]}) if case["bits"] else None
    memory.restart()
    model = load_base(str(folder), case["precision"], quantization, memory.device)
    model, report = attach_adapter(model, AdapterSettings.model_validate({"method": case["method"]}))
    loading = memory.peak()
    if case["gradient_checkpointing"]:
        model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    compute_losses_in_forward(model)
    optimizer = make_optimizer(case["optimizer"], [weight for weight in model.parameters() if weight.requires_grad])
    scaler = torch.amp.GradScaler(memory.device, enabled=case["precision"] == "fp16")
    kind = torch.bfloat16 if case["precision"] == "bf16" else torch.float16
    batch = longest_batch(case["micro"], case["length"], model.config.vocab_size, memory.device)
    memory.restart()

    def step() -> None:
        with torch.autocast(memory.device, dtype=kind):
            losses = token_losses(model, batch)
        loss = losses.weighted_sum / losses.correct.numel()
        del losses
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)

    for _ in range(STEPS):
        step()
    peak = memory.peak()
    began = time.monotonic()
    timed_steps = SMALL_TIMED_STEPS if small else TIMED_STEPS
    for _ in range(timed_steps):
        step()
    memory.wait()
    rows_per_second = timed_steps * case["micro"] / (time.monotonic() - began)
    load = TrainingLoad(
        method=case["method"],
        bits=case["bits"],
        precision=case["precision"],
        optimizer=case["optimizer"],
        micro=case["micro"],
        eval_rows=1,
        length=case["length"],
        trained_tokens=TRAINED_TOKENS,
        gradient_checkpointing=case["gradient_checkpointing"],
    )
    rung = Rung(name="measured", device=memory.device, memory_gb=memory.total / 1e9, precision=case["precision"])
    base = SIZES.get(case["size"], case["size"])
    estimate = estimate_memory(shape_of_config(base, model.config.to_dict()), load, rung)
    rate = MeasuredRate(
        device=memory.name,
        base=base,
        method=case["method"],
        bits=case["bits"],
        max_length=case["length"],
        rows_per_second=round(rows_per_second, 3),
        source="benchmarks/results/gpu_memory.json (random weights, every row of full length)",
    )
    return {
        "trainable": report.trainable,
        "context_bytes": memory.context,
        "loading_bytes": loading,
        "measured_bytes": peak + memory.context,
        "reserved_bytes": memory.reserved() + memory.context,
        "estimate_bytes": estimate.peak,
        "estimate_over_measured": estimate.peak / (peak + memory.context),
        "estimate_over_measured_without_context": (estimate.peak - estimate.context) / peak,
        "estimate": estimate.as_dict(),
        "rate": rate.model_dump(mode="json"),
    }


def saved_model(size: str, folder: Path, precision: str) -> Path:
    """A model of the size's shape with random weights, written once."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    place = folder / f"{size}-{precision}"
    if (place / "config.json").is_file():
        return place
    config = Qwen2Config(**sizes_of(size), max_position_embeddings=4096)
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    AutoModelForCausalLM.from_config(config, dtype=kind).save_pretrained(place)
    return place


def sizes_of(size: str) -> dict[str, Any]:
    """Of a Qwen2 of this size, as its configuration names them."""
    if size == SMALL:
        return {**MODELS["qwen2_45m"], "tie_word_embeddings": True}
    shape = model_shape(SIZES[size])
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }


def make_optimizer(name: str, weights: list[Any]) -> Any:
    """The optimizer as the trainer makes it."""
    import torch

    if name == "adamw":
        return torch.optim.AdamW(weights, lr=1e-4, fused=True)
    import bitsandbytes

    kind = bitsandbytes.optim.PagedAdamW8bit if name.startswith("paged") else bitsandbytes.optim.AdamW8bit
    return kind(weights, lr=1e-4)


def longest_batch(rows: int, length: int, vocabulary: int, device: str) -> dict[str, Any]:
    """Rows of full length, one with padding, so that the mask takes part; the last tokens are trained."""
    import torch

    ids = torch.randint(0, vocabulary, (rows, length), device=device)
    mask = torch.ones_like(ids)
    mask[0, : length // 8] = 0
    labels = torch.full_like(ids, -100)
    labels[:, -TRAINED_TOKENS:] = ids[:, -TRAINED_TOKENS:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


if __name__ == "__main__":
    sys.exit(main())

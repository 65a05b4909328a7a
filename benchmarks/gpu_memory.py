"""Peak memory of real training steps on a GPU against the plan's estimate, and the 4 GB rung under a hard 4 GB limit.

python benchmarks/gpu_memory.py                     # all sizes × methods × lengths, then the 4 GB rung
python benchmarks/gpu_memory.py --sizes 0.5B --methods lora qlora --lengths 512
python benchmarks/gpu_memory.py --only cap

Models have the shapes of Qwen2.5 and random weights, so nothing is fetched. Each case runs in a process of its own: two
steps of one micro-batch through the trainer's own loss, with the optimizer. Without a GPU it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_record

from triagekit.hardware.devices import detect_devices
from triagekit.hardware.ladder import Rung, load_ladder
from triagekit.hardware.load import TrainingLoad
from triagekit.hardware.memory import estimate_memory
from triagekit.hardware.model_shape import model_shape, shape_of_config
from triagekit.hardware.rates import MeasuredRate

NO_GPU = 2
FOUR_GIGABYTES = 4 * 10**9
TRAINED_TOKENS = 64
STEPS = 2
TIMED_STEPS = 8
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
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(json.loads(options.case))))
        return 0
    devices = detect_devices()
    if not devices:
        print("gpu_memory: this machine has no GPU that CUDA can use, so nothing was measured.", file=sys.stderr)
        return NO_GPU
    print(f"On {devices[0].name}, {devices[0].memory_bytes / 2**30:.1f} GiB")
    figures: dict[str, Any] = {"device": devices[0].name, "capability": devices[0].capability, "grid": [], "cap": None}
    bf16 = (devices[0].capability or (0, 0)) >= (8, 0)
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "cap":
            for size in options.sizes:
                for method in options.methods:
                    for length in options.lengths:
                        case = grid_case(size, method, length, options.micro, bf16, folder)
                        figures["grid"].append(run_case(case))
        if options.only != "grid":
            figures["cap"] = run_case({**cap_case(folder), "cap_bytes": FOUR_GIGABYTES})
    measured = [row for row in figures["grid"] if row.get("measured_bytes")]
    if measured:
        figures["largest_error"] = max(abs(row["estimate_over_measured"] - 1) for row in measured)
        print(f"Largest error of an estimate: {figures['largest_error']:.1%} (goal: 10 %)")
    print(write_record("gpu_memory", figures))
    failed = [row for row in [*figures["grid"], figures["cap"] or {}] if row.get("error")]
    return 1 if failed else 0


def grid_case(size: str, method: str, length: int, micro: int, bf16: bool, folder: str) -> dict[str, Any]:
    """One cell of the grid: a load and the shape that it is put on."""
    return {
        "size": size,
        "method": "lora" if method == "qlora" else method,
        "bits": 4 if method == "qlora" else None,
        "length": length,
        "micro": micro,
        "precision": "bf16" if bf16 else "fp16",
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
    done = subprocess.run(words, capture_output=True, text=True, check=False)
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

    from triagekit.modeling.adapters import attach_adapter
    from triagekit.modeling.base import load_base
    from triagekit.modeling.settings import AdapterSettings, QuantizationSettings
    from triagekit.training.loss import compute_losses_in_forward, token_losses

    # The context stands before anything is counted; what it takes is the card's memory that is gone without a tensor.
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()
    if "cap_bytes" in case:
        torch.cuda.set_per_process_memory_fraction((case["cap_bytes"] - context) / total)
    folder = saved_model(case["size"], Path(case["folder"]), case["precision"])
    quantization = QuantizationSettings.model_validate({"bits": case["bits"]}) if case["bits"] else None
    torch.cuda.reset_peak_memory_stats()
    model = load_base(str(folder), case["precision"], quantization)
    model, report = attach_adapter(model, AdapterSettings.model_validate({"method": case["method"]}))
    loading = torch.cuda.max_memory_allocated()
    if case["gradient_checkpointing"]:
        model.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    compute_losses_in_forward(model)
    optimizer = make_optimizer(case["optimizer"], [weight for weight in model.parameters() if weight.requires_grad])
    scaler = torch.amp.GradScaler("cuda", enabled=case["precision"] == "fp16")
    kind = torch.bfloat16 if case["precision"] == "bf16" else torch.float16
    batch = longest_batch(case["micro"], case["length"], model.config.vocab_size)
    torch.cuda.reset_peak_memory_stats()

    def step() -> None:
        with torch.autocast("cuda", dtype=kind):
            losses = token_losses(model, batch)
        loss = losses.weighted_sum / losses.correct.numel()
        del losses
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)

    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    began = time.monotonic()
    for _ in range(TIMED_STEPS):
        step()
    torch.cuda.synchronize()
    rows_per_second = TIMED_STEPS * case["micro"] / (time.monotonic() - began)
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
    rung = Rung(name="measured", memory_gb=total / 1e9, precision=case["precision"])
    shape = shape_of_config(SIZES[case["size"]], model.config.to_dict())
    estimate = estimate_memory(shape, load, rung)
    rate = MeasuredRate(
        device=torch.cuda.get_device_name(),
        base=SIZES[case["size"]],
        method=case["method"],
        bits=case["bits"],
        max_length=case["length"],
        rows_per_second=round(rows_per_second, 3),
        source="benchmarks/results/gpu_memory.json (random weights, every row of full length)",
    )
    return {
        "trainable": report.trainable,
        "context_bytes": context,
        "loading_bytes": loading,
        "measured_bytes": peak + context,
        "reserved_bytes": torch.cuda.max_memory_reserved() + context,
        "estimate_bytes": estimate.peak,
        "estimate_over_measured": estimate.peak / (peak + context),
        "estimate": estimate.as_dict(),
        "rate": rate.model_dump(mode="json"),
    }


def saved_model(size: str, folder: Path, precision: str) -> Path:
    """A model of the size's shape with random weights, written once; made on the GPU, moved off it before it is saved."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    place = folder / f"{size}-{precision}"
    if (place / "config.json").is_file():
        return place
    shape = model_shape(SIZES[size])
    config = Qwen2Config(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
    )
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    AutoModelForCausalLM.from_config(config, dtype=kind).save_pretrained(place)
    return place


def make_optimizer(name: str, weights: list[Any]) -> Any:
    """The optimizer as the trainer makes it."""
    import torch

    if name == "adamw":
        return torch.optim.AdamW(weights, lr=1e-4, fused=True)
    import bitsandbytes

    kind = bitsandbytes.optim.PagedAdamW8bit if name.startswith("paged") else bitsandbytes.optim.AdamW8bit
    return kind(weights, lr=1e-4)


def longest_batch(rows: int, length: int, vocabulary: int) -> dict[str, Any]:
    """Rows of full length, one with padding, so that the mask takes part; the last tokens are trained."""
    import torch

    ids = torch.randint(0, vocabulary, (rows, length), device="cuda")
    mask = torch.ones_like(ids)
    mask[0, : length // 8] = 0
    labels = torch.full_like(ids, -100)
    labels[:, -TRAINED_TOKENS:] = ids[:, -TRAINED_TOKENS:]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


if __name__ == "__main__":
    sys.exit(main())

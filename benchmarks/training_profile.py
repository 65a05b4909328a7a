"""Where the time of a training step goes, beside what the matrix products alone would take.

One optimizer step of this trainer (packed rows, LoRA, float32, two threads) under PyTorch's profiler, its operators grouped
by what they are for; and the floor: floating-point operations of the step's matrix products over the machine's rate.

    python benchmarks/training_profile.py [--models embedded qwen2_45m] [--rows 16 64] [--prompts explicit]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from matrix_rate import THREADS
from models import MODELS, ON_CPU, base_of
from record import write_record
from training_vs_trl import Case, StepClock, our_step, ours, prepare

STEPS = 4
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("flash_attention", "attend", "SharedPrefix", "aten::logsumexp", "aten::logaddexp"),
    "loss": ("softmax", "nll_loss", "aten::argmax", "aten::gather"),
    "optimizer and clipping": ("_fused_adam", "Optimizer", "norm_", "linalg_vector_norm", "_foreach"),
    "activation and norms": (
        "silu",
        "aten::mul",
        "aten::add",
        "rsqrt",
        "aten::mean",
        "aten::pow",
        "aten::sum",
        "sigmoid",
    ),
    "copies": ("aten::copy_", "aten::cat", "index", "aten::clone", "embedding", "fill_", "zero_"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(ON_CPU))
    parser.add_argument("--prompts", nargs="+", choices=["explicit", "implicit"], default=["explicit"])
    parser.add_argument("--rows", type=int, nargs="+", default=[16])
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder))
        for model in options.models:
            base = base_of(model, Path(folder))
            for prompt in options.prompts:
                for rows in options.rows:
                    case = f"{model}, {prompt}, {rows} rows"
                    figures[case] = profile(base, prompt, rows, data)
                    show(case, figures[case])
    print(write_record("training_profile", {"threads": THREADS, "cases": figures}))


def profile(base: str, prompt: str, rows: int, data: Path) -> dict[str, Any]:
    """Seconds of a step without the profiler, the share of each group with it, and what the floor is."""
    import torch
    from torch.profiler import ProfilerActivity

    from triagekit.modeling.quiet import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        case = Case("ours", base, "lora", prompt, rows, str(data), STEPS)
        trainer = ours(case, Path(folder), "shared_prefix")
        clock = StepClock(trainer)
        trainer.train()
        seconds = min(after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False))
        batch = list(trainer.get_train_dataloader())[-1]
        optimizer = trainer.optimizer
        with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
            trainer.compute_loss(trainer.network, batch).backward()
            torch.nn.utils.clip_grad_norm_([p for p in trainer.network.parameters() if p.grad is not None], 1.0)
            optimizer.step()
        facts = our_step(trainer, seconds)
    times: dict[str, float] = dict.fromkeys([*GROUPS, "other"], 0.0)
    for event in profiler.key_averages():
        group = next((name for name, parts in GROUPS.items() if any(part in event.key for part in parts)), "other")
        times[group] += event.self_cpu_time_total
    whole = sum(times.values())
    return {
        "seconds_of_a_step": round(seconds, 3),
        "floor_seconds": round(facts["matrix_operations_of_a_step"] / facts["matrix_rate"], 3),
        "shares": {name: round(value / whole, 3) for name, value in times.items()},
        **facts,
    }


def show(case: str, found: dict[str, Any]) -> None:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items())
    print(
        f"{case}: {found['seconds_of_a_step']} s a step, floor {found['floor_seconds']} s "
        f"({found['matrix_rate_share']:.0%} of {found['matrix_rate'] / 1e9:.0f} GFLOP/s); {shares}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()

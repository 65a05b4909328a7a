"""Speed of one optimizer step: this trainer against the trainers that people would take instead.

All train the same LoRA adapter of the same base on the same rows in the same order, with the same optimizer, each in a
process of its own on the same number of threads, in turn and then in turn again; the faster of its turns counts. Losses
are compared step by step.

    python benchmarks/training_vs_trl.py --quick     # a minute, against TRL alone; the last line is the ratio of rows/s
    python benchmarks/training_vs_trl.py             # explicit and implicit prompts, 16 and 64 rows a step, all trainers
    python benchmarks/training_vs_trl.py --models qwen2_45m        # a random Qwen2 of 45 M weights and 32,000 tokens
    python benchmarks/training_vs_trl.py --models qwen2_45m --rows 64 --peers-micro 16   # where 64 rows of theirs do not fit
    python benchmarks/training_vs_trl.py --gpu       # the shapes of Qwen2.5 0.5B and 1.5B in bf16, LoRA and NF4 QLoRA

The record also says which share of this machine's matrix rate our trainer reaches: floating-point operations of the matrix
products of a step (counted by PyTorch), over its time and the rate of one large product (float32 on as many threads, bfloat16
on a GPU). Peak memory is that of the process, on a GPU that of PyTorch's allocator.

- ours: packed rows, the shared prefix once. ours_padded: the same trainer with batch.packing=none.
- trl: SFTTrainer as it comes, loss on the record only and in chunks (its default). trl_grouped: with rows of like length
  together, as our own order has them already. trl_padding_free: batches without padding, by FlashAttention where that package is,
  else under a mask. Its packing would put other rows into a step.
- hf: transformers.Trainer on rows padded to the longest of the data set, with the model's own loss over all logits.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from matrix_rate import THREADS, matrix_rate
from models import MODELS, ON_GPU, base_of
from record import triage, write_record

ENGINES = ("ours", "ours_padded", "trl", "trl_grouped", "trl_padding_free", "hf")
METHODS = {"lora": {}, "qlora": {"quantization": {"bits": 4}}}
WARM_UP = 1
TURNS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64], help="rows of one step (default: 16 64)")
    parser.add_argument("--peers-micro", type=int, help="rows that the others take at once (default: those of a step)")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--prompts", nargs="+", choices=["explicit", "implicit"], default=["explicit", "implicit"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--gpu", action="store_true", help="on the GPU, in bf16")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--record", help="name of the record; `none` writes none")
    parser.add_argument("--child", metavar="CASE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run_engine(Case(**json.loads(options.child)))))
        return
    if options.gpu:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("--gpu: this machine has no GPU that CUDA can use, so nothing was measured.")
    models = options.models or (list(ON_GPU) if options.gpu else ["embedded"])
    methods = options.methods or (list(METHODS) if options.gpu else ["lora"])
    choices = itertools.product(models, methods, options.prompts, options.rows)
    engines, turns = options.engines, options.turns
    if options.quick:
        choices, engines, turns = itertools.product(["embedded"], ["lora"], ["explicit"], [16]), ["ours", "trl"], 1
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder))
        for model, method, prompt, rows in choices:
            base = base_of(model, Path(folder), "bf16" if options.gpu else "fp32")
            micro = min(options.peers_micro or rows, rows)
            if rows % micro:
                parser.error(f"--rows {rows} is no multiple of --peers-micro {micro}")
            case = Case("ours", base, method, prompt, rows, str(data), options.steps, options.gpu, micro)
            name = ", ".join([model, *([method] if method != "lora" or options.gpu else []), prompt, f"{rows} rows"])
            print(name)
            figures[name] = compare(engines, case, turns)
    if not options.quick and options.record != "none":
        record = options.record or ("training_vs_trl_gpu" if options.gpu else "training_vs_trl")
        print(write_record(record, {"threads": THREADS, "steps": options.steps, "cases": figures}))
    print(f"ratio {next(iter(figures.values()))['trl']['ratio']:.2f}")


@dataclass(frozen=True)
class Case:
    """What one process trains."""

    engine: str
    base: str
    method: str
    prompt: str
    rows: int
    data: str
    steps: int
    gpu: bool
    peers_micro: int
    """Rows that the others take at once; they accumulate the gradients of a step. Ours takes the step's rows at once."""

    @property
    def accumulated(self) -> int:
        """Batches of one step."""
        return 1 if self.engine.startswith("ours") else self.rows // self.peers_micro


def prepare(folder: Path) -> Path:
    """Generated tickets, enough for the longest case."""
    triage("data", "generate", "--rows", 1500, "--seed", 7, "--out", folder / "raw.jsonl")
    triage("data", "prepare", "it_tickets", "--source", folder / "raw.jsonl", "--out", folder / "data")
    return folder / "data"


def compare(engines: list[str], case: Case, turns: int) -> dict[str, dict[str, Any]]:
    """Figures of each engine; `ratio` is how many times more rows a second ours takes."""
    best: dict[str, dict[str, Any]] = {}
    for _ in range(turns):
        for engine in engines:
            found = in_a_process(replace(case, engine=engine))
            if engine not in best or found["rows_per_second"] > best[engine]["rows_per_second"]:
                best[engine] = found
    ours = best["ours"]
    for engine, found in best.items():
        found["ratio"] = round(ours["rows_per_second"] / found["rows_per_second"], 3)
        found["largest_loss_difference"] = max(
            abs(one - other) for one, other in zip(ours["losses"], found["losses"], strict=True)
        )
        reached = f"  {found['matrix_rate_share']:.0%} of the matrix rate" if "matrix_rate_share" in found else ""
        print(
            f"  {engine:16} {found['rows_per_second']:8.2f} rows/s  ours is {found['ratio']:5.2f} ×"
            f"  peak {found['peak_memory_bytes'] / 2**20:6.0f} MiB"
            f"  losses differ by {found['largest_loss_difference']:.1e}{reached}",
            flush=True,
        )
    return best


def in_a_process(case: Case) -> dict[str, Any]:
    """What `run_engine` gives, from a fresh process, so that peaks of memory are its own."""
    words = [sys.executable, __file__, "--child", json.dumps(asdict(case))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{case.engine} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def run_engine(case: Case) -> dict[str, Any]:
    """Train the optimizer steps; rows/s over those after the warm-up, loss of each step, peak memory."""
    import torch

    from triagekit.modeling.quiet import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours(case, Path(folder), "none" if case.engine != "ours" else "shared_prefix")
        if case.engine.startswith("trl"):
            trainer = trl(trainer, case)
        elif case.engine == "hf":
            trainer = hugging_face(trainer, case)
        clock = StepClock(trainer)
        trainer.train()
        seconds = (clock.ends[-1] - clock.ends[WARM_UP - 1]) / (case.steps - WARM_UP)
        peak = (
            torch.cuda.max_memory_allocated() if case.gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        own = work_of_a_step(trainer, case, seconds) | (our_step(trainer, seconds) if case.engine == "ours" else {})
    return {
        "rows_per_second": round(case.rows / seconds, 3),
        "losses": clock.losses,
        **own,
        "peak_memory_bytes": peak,
    }


def work_of_a_step(trainer: Any, case: Case, seconds: float) -> dict[str, Any]:
    """Tokens that went through the model in the last step, padding among them, and trained tokens a second."""
    from triagekit.training.collator import token_count
    from triagekit.training.loss import normaliser

    batches = list(trainer.get_train_dataloader())[-case.accumulated :]
    if case.engine.startswith("ours"):
        computed, trained = sum(map(token_count, batches)), float(normaliser(batches))
    else:
        computed = sum(batch["input_ids"].numel() for batch in batches)
        trained = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    return {"computed_tokens_of_a_step": computed, "trained_tokens_per_second": round(trained / seconds, 1)}


def our_step(trainer: Any, seconds: float) -> dict[str, Any]:
    """Tokens and matrix products of our last step, which took `seconds`, and the share of the matrix rate that it reached."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = list(trainer.get_train_dataloader())[-1]
    with FlopCounterMode(display=False) as counter:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.network, batch)
        loss.backward()
    operations, rate = counter.get_total_flops(), matrix_rate(trainer.args.device.type)
    lengths = [len(trainer._rows[row]["input_ids"]) for row in range(len(trainer._rows))]
    return {
        "tokens_per_row": round(sum(lengths) / len(lengths), 1),
        "matrix_operations_of_a_step": operations,
        "matrix_rate": round(rate),
        "matrix_rate_share": round(operations / rate / seconds, 3),
    }


class StepClock:
    """When each optimizer step ended, and the losses as the trainer logs them."""

    def __init__(self, trainer: Any) -> None:
        from transformers import TrainerCallback

        self.ends: list[float] = []
        self.losses: list[float] = []
        clock = self

        class Callback(TrainerCallback):
            def on_step_end(self, *arguments: Any, **others: Any) -> None:
                clock.ends.append(time.perf_counter())

            def on_log(self, *arguments: Any, logs: dict[str, float] | None = None, **others: Any) -> None:
                if logs and "loss" in logs:
                    clock.losses.append(logs["loss"])

        if hasattr(trainer, "last_line"):
            own = trainer._write
            trainer._write = lambda line: (clock.losses.append(line["loss"]), own(line))
        trainer.add_callback(Callback())


def ours(case: Case, folder: Path, packing: str) -> Any:
    """This project's trainer, ready to train; the others take its model and rows."""
    from triagekit.data.dataset import ProcessedDataset
    from triagekit.progress import SilentProgress
    from triagekit.training.prepare import prepare_run
    from triagekit.training.ranks import Ranks
    from triagekit.training.run_folder import RunFolder
    from triagekit.training.settings import TrainSettings
    from triagekit.training.stopping import StopRequest

    settings = TrainSettings.model_validate(
        {
            "name": "benchmark",
            "base": case.base,
            "data": case.data,
            "output": str(folder),
            "precision": "bf16" if case.gpu else "fp32",
            **METHODS[case.method],
            "prompt": {"strategy": case.prompt, "max_length": 1024},
            "adapter": {"method": "lora", "r": 16, "dropout": 0.0},
            "batch": {"effective": case.rows, "micro": case.rows, "packing": packing},
            "optimizer": {"learning_rate": 2e-3, "schedule": "constant", "warmup_share": 0.0},
            "max_steps": case.steps,
            "max_train_rows": case.rows * case.steps,
            "evaluation": {"max_rows": 1},
            "log_every_steps": 1,
        },
    )
    run = prepare_run(
        settings,
        RunFolder(folder),
        ProcessedDataset.open(Path(case.data)),
        StopRequest(),
        SilentProgress(),
        print_note,
        Ranks(),
    )
    strategy = type(run.trainer.args.save_strategy)
    run.trainer.args.save_strategy = run.trainer.args.eval_strategy = strategy("no")
    return run.trainer


def print_note(text: str) -> None:
    print(text, file=sys.stderr)


def rows_in_order(trainer: Any) -> list[dict[str, list[int]]]:
    """Our trainer's rows as it would show them in its first epoch."""
    return [
        {name: list(trainer._rows[row][name]) for name in ("input_ids", "labels")}
        for row in trainer.row_sampler.order(0)
    ]


def common_arguments(trainer: Any, case: Case) -> dict[str, Any]:
    """The optimizer and schedule of our trainer, for the others."""
    taken = (
        "learning_rate",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "optim",
        "seed",
    )
    return {
        **{name: getattr(trainer.args, name) for name in taken},
        "output_dir": trainer.args.output_dir,
        "per_device_train_batch_size": case.peers_micro,
        "gradient_accumulation_steps": case.accumulated,
        "max_steps": case.steps,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not case.gpu,
        "bf16": case.gpu,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
    }


def trl(trainer: Any, case: Case) -> Any:
    """TRL's trainer on the same model and rows, which bring their labels."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from triagekit.training.loss import give_back_forward

    give_back_forward(trainer.network)
    arguments = common_arguments(trainer, case)
    if case.engine == "trl_grouped":
        arguments["train_sampling_strategy"] = "group_by_length"
    elif case.engine == "trl_padding_free":
        if case.gpu and importlib.util.find_spec("flash_attn"):
            trainer.network.get_base_model().set_attn_implementation("flash_attention_2")
        arguments["padding_free"] = True
    return SFTTrainer(
        model=trainer.network,
        args=SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list(rows_in_order(trainer)),
        processing_class=trainer.processing_class,
    )


def hugging_face(trainer: Any, case: Case) -> Any:
    """transformers' trainer, every row padded to the longest of all, as earlier ticket-triage projects did."""
    import torch
    from transformers import Trainer, TrainingArguments

    from triagekit.training.collator import PaddingCollator
    from triagekit.training.loss import give_back_forward

    give_back_forward(trainer.network)
    ordered = rows_in_order(trainer)
    longest = max(ordered, key=lambda row: len(row["input_ids"]))
    collate = PaddingCollator(0)

    def pad(members: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: tensor[:-1] for name, tensor in collate([*members, longest]).items()}

    arguments = TrainingArguments(**common_arguments(trainer, case), remove_unused_columns=False)
    return Trainer(model=trainer.network, args=arguments, train_dataset=ordered, data_collator=pad)


if __name__ == "__main__":
    main()

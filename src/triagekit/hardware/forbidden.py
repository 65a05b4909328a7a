"""Pairs that do not go together: refused when a run is planned, one line each, instead of failing after an hour's queue.

Each rule names where it comes from. A pair that our settings cannot say (`device_map: auto` under several processes, where
the world silently becomes 1) needs no rule: every process pins the base to its own device.
"""

from __future__ import annotations

from triagekit.errors import Problem
from triagekit.hardware.devices import Device
from triagekit.hardware.ladder import Rung
from triagekit.hardware.load import TrainingLoad

AMPERE = (8, 0)
TURING = (7, 5)
EIGHT_BIT_OPTIMIZERS = ("adamw_8bit", "paged_adamw_8bit")


def check_combination(
    load: TrainingLoad, rung: Rung, device: Device | None = None, bitsandbytes: bool | None = None
) -> list[Problem]:
    """Everything in `load` (the run as `rung` has it) that cannot be done on `rung`, one problem a pair.

    `device` is the card it would run on; None: the least that the rung asks for. `bitsandbytes` says whether that package
    is installed where the run would start; None: not known.
    """
    found = [*_quantised(load, rung), *_number_types(load, rung, device), *_sharded(load, rung)]
    if bitsandbytes is False:
        users = [f"quantization ({load.bits} bits)"] if load.bits else []
        users += [f"optimizer.name: {load.optimizer}"] if load.optimizer in EIGHT_BIT_OPTIMIZERS else []
        found += [
            Problem(
                user, "needs bitsandbytes, which is not installed here.", "pip install bitsandbytes, or leave it out."
            )
            for user in users
        ]
    return found


def _quantised(load: TrainingLoad, rung: Rung) -> list[Problem]:
    if load.bits is None:
        return []
    found = []
    base = f"a base in {load.bits} bits"
    if load.method == "full":
        # bitsandbytes weights are integers: they have no gradient.
        found.append(
            Problem("adapter.method: full", f"cannot train {base}.", "Take method lora or hybrid, or another rung.")
        )
    if load.pissa:
        # Meng et al. 2024, arXiv 2404.02948: the principal parts are taken out of the base's own weights.
        found.append(
            Problem("adapter.pissa", f"changes the base's weights, which {base} cannot.", "Set adapter.pissa: false.")
        )
    if rung.sharding == "zero3":
        # peft #306, #1418, #2016; transformers #26412; DeepSpeed #7096.
        found.append(
            Problem("sharding: zero3", f"does not share {base}: memory goes up, not down.", "Take a rung with ddp.")
        )
    if load.dora and rung.sharding == "zero2":
        # PEFT, developer guide on LoRA, DoRA's caveats.
        found.append(
            Problem(
                "adapter.dora", f"on {base} is known to fail under ZeRO-2.", "Set adapter.dora: false, or take ddp."
            )
        )
    return found


def _number_types(load: TrainingLoad, rung: Rung, device: Device | None) -> list[Problem]:
    found = []
    if rung.on_cpu:
        if load.precision == "fp16":
            # Loss scaling runs on GPUs only.
            found.append(Problem("precision: fp16", "needs a GPU.", "Set precision: auto."))
        return found
    capability = device.capability if device is not None else rung.minimum_capability
    if capability is None:
        return found
    card = f"{device.name if device else 'the rung'} (capability {capability[0]}.{capability[1]})"
    if capability < AMPERE:
        # nanoGPT #277, pytorch #127176: the card claims bfloat16 and emulates it, several times slower than float16.
        found += [
            Problem(setting, f"{card} has no bfloat16 units.", "Set auto, or fp16; trained weights stay float32.")
            for setting, value in (
                ("precision: bf16", load.precision),
                ("quantization.compute_dtype: bf16", load.quantised_compute),
            )
            if value == "bf16"
        ]
    if load.bits == 8 and capability < TURING:
        # bitsandbytes, installation guide: LLM.int8() needs Turing or newer.
        found.append(Problem("quantization.bits: 8", f"{card} has no 8-bit products.", "Set quantization.bits: 4."))
    return found


def _sharded(load: TrainingLoad, rung: Rung) -> list[Problem]:
    if rung.sharding != "zero3":
        return []
    found = []
    if load.dora:
        # The norm of each weight's columns is taken outside the module whose weight ZeRO-3 gathers.
        found.append(
            Problem(
                "adapter.dora",
                "reads whole base weights, which ZeRO-3 has spread.",
                "Set adapter.dora: false, or take ddp.",
            )
        )
    if load.pissa:
        found.append(
            Problem(
                "adapter.pissa",
                "cuts its start out of base weights, which ZeRO-3 has spread.",
                "Set adapter.pissa: false, or take ddp.",
            )
        )
    if load.method == "hybrid" and load.head == "output_tokens":
        found.append(
            Problem(
                "adapter.head: output_tokens",
                "picks rows of a head that ZeRO-3 has spread.",
                "Set adapter.head: all, or take zero2.",
            )
        )
    return found

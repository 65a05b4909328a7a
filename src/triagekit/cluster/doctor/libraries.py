"""torch, bitsandbytes and DeepSpeed as tried in a child process: usable, or why not."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.doctor.graphics import Driver
from triagekit.hardware.devices import Device

SECTION = "Libraries"
GREATEST_NF4_DIFFERENCE = 0.2
"""Relative, of a 64 × 64 NF4 layer against the exact one: about 0.09 when it works."""


def check_torch(
    answer: Mapping[str, Any], version: str, devices: Sequence[Device], driver: Driver | None
) -> list[Finding]:
    """torch against the cards and the driver of this machine. `answer` is that of `child.try_torch`."""
    if not answer["ok"]:
        return [Finding(SECTION, "torch", "problem", f"{version} does not import: {answer['error']}", _fix(answer))]
    cuda, cards = answer["cuda"], answer["cards"]
    if not devices and not cards:
        return [Finding(SECTION, "torch", "ok", f"{version}, {_build(cuda)}")]
    if cuda is None:
        detail = f"{version} is a CPU build on a machine with {len(devices)} GPU{'s' if len(devices) > 1 else ''}"
        fix = (
            "pip install --force-reinstall torch, with an index that has CUDA builds (https://pytorch.org/get-started)"
        )
        return [Finding(SECTION, "torch", "problem", detail, fix)]
    if driver and driver.cuda and _major(cuda) > _major(driver.cuda):
        detail = f"{version} is built for CUDA {cuda}; driver {driver.version} runs CUDA up to {driver.cuda}"
        fix = f"Install a torch built for CUDA {_major(driver.cuda)}, or ask for a newer driver."
        return [Finding(SECTION, "torch", "problem", detail, fix)]
    if len(cards) < len(devices):
        detail = f"{version} ({_build(cuda)}) sees {len(cards)} of {len(devices)} GPUs"
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        fix = f"CUDA_VISIBLE_DEVICES is {shown!r}. " if shown is not None else ""
        return [Finding(SECTION, "torch", "problem", detail, f"{fix}Look at nvidia-smi and the driver's log (dmesg).")]
    broken = [(index, card) for index, card in enumerate(cards) if not card["computes"]]
    if broken:
        index, card = broken[0]
        capability = ".".join(map(str, card["capability"]))
        detail = f"{version} cannot compute on GPU {index} ({card['name']}): {card.get('error', 'a wrong product')}"
        built = ", ".join(answer["architectures"])
        fix = (
            f"This build has kernels for {built}; the card is of capability {capability}. Install a build that has it."
        )
        return [Finding(SECTION, "torch", "problem", detail, fix)]
    return [Finding(SECTION, "torch", "ok", f"{version}, {_build(cuda)}, computes on {len(cards)} of {len(devices)}")]


def check_bitsandbytes(answer: Mapping[str, Any], version: str) -> list[Finding]:
    """4-bit weights: whether a small NF4 layer gives about what the exact one gives."""
    if not answer["ok"]:
        detail = f"{version} not usable: {answer['error']}"
        return [Finding(SECTION, "bitsandbytes", "problem", detail, _fix(answer) + " Until then: method lora.")]
    difference, device = answer["relative_difference"], answer["device"]
    if not difference < GREATEST_NF4_DIFFERENCE:
        detail = f"{version}: an NF4 layer on {device} is off by {difference:.0%} of the exact one"
        return [Finding(SECTION, "bitsandbytes", "problem", detail, "pip install --upgrade bitsandbytes")]
    return [Finding(SECTION, "bitsandbytes", "ok", f"{version}, an NF4 layer computes on {device}")]


def check_deepspeed(answer: Mapping[str, Any] | None, version: str | None) -> list[Finding]:
    """DeepSpeed: only the ZeRO rungs need it; nothing here needs its compiled operators, so no nvcc either."""
    if answer is None or version is None:
        detail = "not installed: the rungs that shard over GPUs (ZeRO) are not to be had; the others are"
        return [Finding(SECTION, "deepspeed", "note", detail, "pip install 'triagekit[deepspeed]'")]
    if answer["ok"]:
        compiler = "nvcc here" if _nvcc() else "no nvcc, and none is needed"
        return [Finding(SECTION, "deepspeed", "ok", f"{version} imports ({compiler})")]
    fix = _fix(answer)
    if re.search(r"CUDA_HOME|nvcc|CUDAMismatch|MissingCUDA", f"{answer['error']} {answer.get('kind', '')}"):
        fix = "module load cuda (or export CUDA_HOME=…), for the import alone; or: pip uninstall deepspeed"
        if _nvcc():
            fix = "export DS_SKIP_CUDA_CHECK=1: nvcc is of another CUDA than torch, and nothing here is compiled."
    return [Finding(SECTION, "deepspeed", "problem", f"{version} does not import: {answer['error']}", fix)]


def _nvcc() -> bool:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc") is not None or bool(home and shutil.which("nvcc", path=f"{home}/bin"))


def _fix(answer: Mapping[str, Any]) -> str:
    if answer.get("late"):
        return "A slow file system or a hanging driver. Put the environment on a faster one, or try again."
    name = answer["trial"]
    return f"See it whole: python -c 'import {name}'. Then: pip install --force-reinstall {name}."


def _build(cuda: str | None) -> str:
    return f"built for CUDA {cuda}" if cuda else "CPU build"


def _major(version: str) -> int:
    return int(version.partition(".")[0])

"""GPUs: driver, name, capability, memory, and whether bfloat16 is real or only emulated on them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from triagekit.cluster.doctor.finding import Finding
from triagekit.hardware.devices import Device

REAL_BFLOAT16 = (8, 0)
"""Ampere. Older cards report bfloat16 as supported and compute it several times slower than float16."""
NF4_CAPABILITY = (6, 0)
"""Pascal: below it bitsandbytes has no 4-bit kernels."""

DRIVER_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version")
"""What there is where a driver is loaded."""

_GIBIBYTE = 1024**3
_SECONDS = 20


@dataclass(frozen=True)
class Driver:
    """`version` of the kernel driver; `cuda`: the newest CUDA it runs, None where it does not say."""

    version: str
    cuda: str | None


def read_driver() -> Driver | None:
    """From nvidia-smi; None where there is none or it does not answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*(\d[\d.]*)", done.stdout)
    return Driver(version[1], cuda[1] if cuda else None) if version else None


def check_driver(driver: Driver | None, devices: Sequence[Device]) -> list[Finding]:
    """The driver, or why there is nothing to drive."""
    if driver is not None:
        cuda = f", runs CUDA up to {driver.cuda}" if driver.cuda else ""
        return [Finding("GPUs", "driver", "ok", f"{driver.version}{cuda}")]
    if shutil.which("nvidia-smi") is not None:
        if not any(Path(name).exists() for name in DRIVER_FILES):
            return [Finding("GPUs", "driver", "note", "nvidia-smi is here, but no driver: a machine without GPUs")]
        fix = "Look at nvidia-smi itself; on a cluster tell the administrators the node's name."
        return [Finding("GPUs", "driver", "problem", "loaded, but nvidia-smi does not answer", fix)]
    if devices:
        return [Finding("GPUs", "driver", "note", "nvidia-smi is not here, so the version is not known")]
    return []


def check_devices(devices: Sequence[Device]) -> list[Finding]:
    """One line a GPU."""
    if not devices:
        return [_explain_none()]
    findings = []
    for index, device in enumerate(devices):
        detail = f"{device.name}, {device.memory_bytes / _GIBIBYTE:.1f} GiB"
        if device.capability is not None:
            real = device.capability >= REAL_BFLOAT16
            detail += f", capability {'.'.join(map(str, device.capability))}, "
            detail += "real bfloat16" if real else "bfloat16 only emulated: float16 is used"
            if device.capability < NF4_CAPABILITY:
                detail += ", too old for 4-bit weights"
        findings.append(Finding("GPUs", f"GPU {index}", "ok", detail))
    return findings


def _explain_none() -> Finding:
    given = os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS")
    if given:
        node = os.environ.get("SLURMD_NODENAME", platform.node())
        detail = f"Slurm gave this job GPU {given} of node {node}, but the driver shows none"
        return Finding("GPUs", "devices", "problem", detail, f"Tell the administrators; until then: --exclude={node}")
    detail = "none that this process may use: training runs on the CPU"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        return Finding("GPUs", "devices", "note", f"{detail} (CUDA_VISIBLE_DEVICES hides them all)")
    fix = "On a cluster ask on a GPU node: srun --gres=gpu:1 triage doctor"
    return Finding("GPUs", "devices", "note", detail, fix)

"""Where and with what a run was made: git state, library versions, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "deepspeed",
    "safetensors",
    "tokenizers",
)


def versions() -> dict[str, str]:
    """Python, triagekit and the libraries that training runs on; absent ones are left out."""
    from triagekit import __version__

    found = {"python": platform.python_version(), "triagekit": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, threads, memory and accelerators of this process."""
    import torch

    cards = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
            "capability": ".".join(str(part) for part in torch.cuda.get_device_capability(index)),
        }
        for index in range(torch.cuda.device_count())
    ]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerators": cards,
        "cuda": torch.version.cuda,
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it, of the folder the command was started in; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def describe() -> dict[str, Any]:
    """All of it, for one start of a run."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "host": platform.node(),
        "system": platform.platform(),
        "git": git_state(),
        "versions": versions(),
        "hardware": hardware(),
        "variables": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
            if name in os.environ
        },
    }


def peak_memory() -> int:
    """Bytes: of the accelerator's memory where there is one, else of this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

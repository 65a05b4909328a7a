"""The memory of the process that measures, on a GPU by PyTorch's allocator and on a CPU by the kernel: what it held before
anything was counted, its peak since then, and a hard limit."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR_PEAK = ("/proc/self/clear_refs", "5")


class GpuMemory:
    """The first card that CUDA sees. Its context stands before anything is counted; what that takes is memory of the card
    that is gone without a tensor."""

    device = "cuda"

    def __init__(self) -> None:
        torch.zeros(1, device="cuda")
        free, self.total = torch.cuda.mem_get_info()
        self.name = torch.cuda.get_device_name()
        self.context = self.total - free - torch.cuda.memory_reserved()

    def limit(self, size: int) -> None:
        """Let context and tensors take `size` bytes together; what asks for more fails."""
        torch.cuda.set_per_process_memory_fraction((size - self.context) / self.total)

    def restart(self) -> None:
        """Let the peak count from here."""
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Bytes of tensors at the peak, without the context."""
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def reserved(self) -> int:
        """Bytes that the allocator has taken for them."""
        return torch.cuda.max_memory_reserved()

    def wait(self) -> None:
        """Until everything asked for is computed."""
        torch.cuda.synchronize()


class CpuMemory:
    """This process, with everything imported that it will use: its context is what it holds by then."""

    device = "cpu"

    def __init__(self) -> None:
        import bitsandbytes  # noqa: F401
        import peft  # noqa: F401
        from transformers import Qwen2ForCausalLM  # noqa: F401

        self.name = "CPU"
        self.total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.context = _kibibytes("VmRSS") * 1024

    def limit(self, size: int) -> None:
        """Let the process take `size` bytes, those included that it holds; what asks for more fails."""
        more = _kibibytes("VmData") * 1024 + size - self.context
        resource.setrlimit(resource.RLIMIT_DATA, (more, resource.RLIM_INFINITY))

    def restart(self) -> None:
        """Let the peak count from here."""
        place, word = CLEAR_PEAK
        Path(place).write_text(word, encoding="ascii")

    def peak(self) -> int:
        """Bytes at the peak, without the context."""
        return _kibibytes("VmHWM") * 1024 - self.context

    def reserved(self) -> int:
        """The same: the kernel counts what is touched."""
        return self.peak()

    def wait(self) -> None:
        """Nothing runs by itself."""


def _kibibytes(name: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])

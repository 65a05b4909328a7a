"""What the processes of a run tell each other. In a run of one process every call answers for it alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from triagekit.errors import TriageError
from triagekit.training.ranks import Ranks

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others. Tokenising and planning come before the group, so nothing takes longer."""


class ProcessGroup:
    """The processes of one run, and this one's place among them. All methods but the properties are collective: every
    process must call them in the same order."""

    def __init__(self, ranks: Ranks = Ranks(), device: torch.device | str = "cpu") -> None:  # noqa: B008
        self.ranks = ranks
        self._device = device
        self._open = ranks.size > 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.ranks.main

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.ranks.rank

    @property
    def size(self) -> int:
        """Processes that still answer: 1 after close()."""
        return self.ranks.size if self._open else 1

    def reduce(self, values: Sequence[float], how: Literal["sum", "max"] = "sum") -> list[float]:
        """Each value's sum or maximum over all processes, in float64."""
        if self.size == 1:
            return [float(value) for value in values]
        import torch
        from torch import distributed

        numbers = torch.tensor([float(value) for value in values], dtype=torch.float64, device=self._device)
        operation = distributed.ReduceOp.SUM if how == "sum" else distributed.ReduceOp.MAX
        distributed.all_reduce(numbers, op=operation)
        return [float(number) for number in numbers.tolist()]

    def text_of(self, rank: int, text: str) -> str:
        """The `text` that process `rank` gave."""
        if self.size == 1:
            return text
        import torch
        from torch import distributed

        content = text.encode("utf-8") if self.rank == rank else b""
        length = int(self.reduce([len(content)], "max")[0])
        numbers = torch.zeros(length, dtype=torch.uint8, device=self._device)
        if content:
            numbers.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(numbers, src=rank)
        return bytes(numbers.tolist()).decode("utf-8")

    def check_equal(self, text: str, message: str) -> None:
        """Raise TriageError(`message`) in every process unless all gave the same `text`."""
        differing = text != self.text_of(0, text)
        if self.reduce([differing], "max")[0]:
            raise TriageError(message)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part without collectives that counts as done only when it is done in all processes.

        An error in one of them is raised in all: there as it is, elsewhere as TriageError with its text.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            if self.size == 1:
                raise
            error = raised
        failed = int(self.reduce([self.rank + 1 if error else 0], "max")[0])
        if not failed:
            return
        told = str(error) if isinstance(error, TriageError) else f"{type(error).__name__}: {error}"
        text = self.text_of(failed - 1, told if error else "")
        if error is not None:
            raise error
        raise TriageError(f"Process {failed - 1} of this run failed, so all end. {text}")

    def close(self) -> None:
        """Leave each other: from now on every process works for itself, for as long as it likes."""
        if self.ranks.grouped and self._open:
            from torch import distributed

            self._open = False
            distributed.barrier()
            distributed.destroy_process_group()


def form_group(ranks: Ranks) -> ProcessGroup:
    """Meet the other processes (NCCL on GPUs, gloo on CPUs), each on its own device.

    Raises TriageError when a node has fewer GPUs than processes, or when they don't find each other.
    """
    from torch import distributed

    device = pin_device(ranks)
    if not ranks.grouped:
        return ProcessGroup(ranks, device)
    if ranks.deepspeed:
        prepare_for_deepspeed()
    on_gpu = device.type == "cuda"
    try:
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=device if on_gpu else None
        )
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).strip().splitlines()[0]
        raise TriageError(
            f"Process {ranks.rank} of {ranks.size} could not meet the others at {place}: {reason}. Start it with "
            "`triage train`, accelerate launch or torchrun, one launcher a node."
        ) from None
    if distributed.get_world_size() != ranks.size:
        raise TriageError(f"{distributed.get_world_size()} processes met, but {ranks.size} were asked for.")
    return ProcessGroup(ranks, device)


def pin_device(ranks: Ranks) -> torch.device:
    """This process's own device: the card with the number of its local rank, else the CPU. Collective-free."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if ranks.local_rank >= count:
        raise TriageError(
            f"Process {ranks.local_rank} of this node has no GPU of its own: {count} are visible. Start as many "
            "processes as there are GPUs (--nproc_per_node, num_processes), and check CUDA_VISIBLE_DEVICES."
        )
    device = torch.device("cuda", ranks.local_rank)
    torch.cuda.set_device(device)
    return device


def prepare_for_deepspeed() -> None:
    """Keep DeepSpeed from compiling a library at its start and from being turned off; needed before the group forms.

    Raises TriageError when DeepSpeed is not installed.
    """
    try:
        import deepspeed.ops
    except ImportError as error:
        raise TriageError(
            f"This rung shards by DeepSpeed, which cannot be used here ({error}). pip install deepspeed, or take a "
            "launcher with DDP (2gpu_ddp)."
        ) from None
    # Else DeepSpeed tries out compilers, says what they lack, and builds for minutes a transport that gloo has already.
    deepspeed.ops.__compatible_ops__ = {}
    # With it accelerate forgets DeepSpeed and trains by DDP, without a word.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"

"""Several real processes of one run, forked from this one: the imports are paid once. And what their results must be."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path

from safetensors.torch import load_file
from training_helpers import import_what_a_run_needs, metric_lines

from triagekit.files.resources import configs_folder
from triagekit.training.run_folder import RunFolder

LOSS_TOLERANCE = 2e-6
"""Seen: 4.8e-7 between one process and two, whatever the sharding; float32 sums in another order."""
WEIGHT_TOLERANCE = 1e-5


class ForkedRanks:
    """`world` processes that meet over gloo, as torchrun starts them; notes and errors go to `<log>.<rank>`."""

    def __init__(self, settings, log, world=2, sharding="ddp", variables=None):
        import_what_a_run_needs()
        if sharding.startswith("zero"):
            import deepspeed  # noqa: F401
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._log = Path(log)
        self.codes = {}
        self.processes = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                self._be_rank(settings, rank, world, sharding, port, variables or {})
            self.processes.append(child)

    def _be_rank(self, settings, rank, world, sharding, port, variables):
        status = 7
        try:
            output = open(f"{self._log}.{rank}", "a", buffering=1)  # noqa: SIM115 (open to the end of this process)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            # pytest's own streams write elsewhere.
            sys.stdout = sys.stderr = output
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_WORLD_SIZE=str(world))
            os.environ.update(variables)
            if sharding.startswith("zero"):
                os.environ.update(ACCELERATE_USE_DEEPSPEED="true", ACCELERATE_DEEPSPEED_ZERO_STAGE=sharding[-1])
            if limit := os.environ.get("TRIAGEKIT_TEST_FILE_LIMIT"):
                self._limit_files(rank, *map(int, limit.split(":")))
            import torch

            from triagekit.training.stopping import TrainingInterrupted
            from triagekit.training.train import train

            torch.set_num_threads(1)
            try:
                train(settings, notes=lambda text: print("note:", text, flush=True))
                status = 0
            except TrainingInterrupted as stop:
                print(stop, flush=True)
                status = 128 + stop.signal_number
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _limit_files(self, rank, limited, size):
        """The kernel refuses this rank's larger files, as a quota would."""
        if rank == limited:
            import resource
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def said(self, rank=0):
        """What a rank has printed so far."""
        path = Path(f"{self._log}.{rank}")
        return path.read_text() if path.is_file() else ""

    def wait(self, until=None, deadline=240.0):
        """Wait for all, or until `until()`; once one has failed, the others are ended as torch's agent does."""
        began, failed_at = time.monotonic(), None
        while len(self.codes) < len(self.processes):
            for rank, process in enumerate(self.processes):
                if rank not in self.codes:
                    done, status = os.waitpid(process, os.WNOHANG)
                    if done:
                        self.codes[rank] = os.waitstatus_to_exitcode(status)
            if until is not None and until():
                return self.codes
            now = time.monotonic()
            if failed_at is None and any(code not in {0, 130, 140, 143} for code in self.codes.values()):
                failed_at = now
            if (failed_at is not None and now - failed_at > 10) or now - began > deadline:
                self.kill()
                assert failed_at is not None, f"the ranks took too long: {self.said()}"
            time.sleep(0.005)
        return self.codes

    def kill(self):
        for rank, process in enumerate(self.processes):
            if rank not in self.codes:
                os.kill(process, 9)
                self.codes[rank] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run_in_ranks(settings, log, **options):
    """A run by several processes to its end."""
    ranks = ForkedRanks(settings, log, **options)
    codes = ranks.wait()
    assert set(codes.values()) == {0}, ranks.said(0) + ranks.said(1)
    return RunFolder(f"{settings.output}/{settings.name}")


def nothing_left_whole(folder):
    """Variables under which ZeRO-3 spreads every weight. By the shipped settings it leaves small ones whole, and those of
    the tests' models all are."""
    config = json.loads((configs_folder() / "deepspeed" / "zero3.json").read_text(encoding="utf-8"))
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = Path(folder) / "nothing_left_whole.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}


def differences(run, other):
    """Largest difference of the losses in the two runs' metrics, and of the weights in their adapters.

    The lines must be of the same steps; the adapters of the same tensors."""
    ours, theirs = metric_lines(run.folder), metric_lines(other.folder)
    place = ("step", "split", "epoch", "learning_rate")
    assert [[line.get(key) for key in place] for line in ours] == [[line.get(key) for key in place] for line in theirs]
    loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True))
    files = sorted(path.name for path in run.adapter.glob("*.safetensors"))
    assert files and files == sorted(path.name for path in other.adapter.glob("*.safetensors"))
    weight = 0.0
    for file in files:
        mine, yours = load_file(run.adapter / file), load_file(other.adapter / file)
        assert mine.keys() == yours.keys()
        weight = max(weight, *(float((mine[name] - yours[name]).abs().max()) for name in mine))
    return loss, weight

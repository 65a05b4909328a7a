"""A tiny processed data set in the project's format, and runs in a process that can be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import yaml

from triagekit.data.dataset import content_fingerprint
from triagekit.files.fingerprint import sha256_file
from triagekit.schema import EnumField, Schema, TextField

SCHEMA = Schema(
    name="tiny",
    title="Tiny",
    description="Three fields.",
    fields=(
        TextField("summary", max_length=40),
        EnumField("category", ("Hardware", "Software", "Network")),
        EnumField("priority", ("Low", "Medium", "High"), ordered=True),
    ),
    instructions=("Make JSON.", "Fill in the record.", "JSON only."),
)
TICKETS = {
    "Hardware": ["printer is dead", "laptop does not start", "monitor flickers"],
    "Software": ["outlook crashes", "excel asks for a key", "teams hangs"],
    "Network": ["vpn login fails", "wifi is down", "shared drive is gone"],
}
MACHINE = {"tokens_per_second", "peak_memory_bytes"}
PLACES = ["on floor 3", "in the lab", "since this morning", "again", "at the front desk"]


def rows(count, seed, skew=False):
    chance = random.Random(seed)
    made = []
    for number in range(count):
        category = "Hardware" if skew and number % 8 else chance.choice(list(TICKETS))
        what = chance.choice(TICKETS[category])
        priority = chance.choice(["Low", "Medium", "High"])
        text = f"{'urgent ' if priority == 'High' else ''}{what} {chance.choice(PLACES)}, please help"
        record = {"summary": what, "category": category, "priority": priority}
        made.append({"id": f"t{seed}-{number}", "text": text, "record": record, "slices": {"language": "en"}})
    return made


def write_processed(folder, splits):
    """A processed data set as `triage data prepare` writes it."""
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        lines = [json.dumps(row) + "\n" for row in splits.get(split, [])]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA.to_dict(), sort_keys=False), encoding="utf-8")
    manifest = {
        "name": folder.name,
        "schema": SCHEMA.name,
        "schema_fingerprint": SCHEMA.fingerprint,
        "fingerprint": content_fingerprint(folder),
        "files": {f"{split}.jsonl": sha256_file(folder / f"{split}.jsonl") for split in ("train", "val", "test")},
        "counts": {split: len(splits.get(split, [])) for split in ("train", "val", "test")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def import_what_a_run_needs():
    """Once, in the process that forks."""
    import torch.utils.tensorboard  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM  # noqa: F401

    import triagekit.training.finish
    import triagekit.training.trainer  # noqa: F401


def run_in_a_process(settings, watch=None, deadline=120):
    """train(settings) in a forked process (the imports are shared); SIGKILL as soon as `watch()` is true.

    Returns the exit status: 0 finished, -9 killed, 7 failed.
    """
    import_what_a_run_needs()
    child = os.fork()
    if child == 0:
        import torch

        from triagekit.training.train import train

        status = 7
        try:
            torch.set_num_threads(1)
            train(settings, notes=lambda text: print("note:", text, flush=True))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    began = time.monotonic()
    while time.monotonic() - began < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if watch is not None and watch():
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the run took too long")


def metric_lines(folder):
    """Lines of metrics.jsonl without what depends on the clock and on what else the process has done."""
    path = Path(folder) / "metrics.jsonl"
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return [{key: value for key, value in line.items() if key not in MACHINE} for line in lines]


def adapter_bytes(folder):
    """Content of every file of the adapter."""
    root = Path(folder) / "adapter"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

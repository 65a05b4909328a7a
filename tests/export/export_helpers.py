"""A processed data set, and runs whose adapters are random and far from nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

from triagekit.data.dataset import content_fingerprint
from triagekit.data.rows import Row
from triagekit.files.fingerprint import sha256_file
from triagekit.schema import DependentEnumField, EnumField, Schema, TagsField, TextField
from triagekit.schema.yaml_text import schema_yaml

SCHEMA = Schema(
    name="desk",
    title="Desk",
    description="Tickets of a service desk.",
    instructions=("Fill in the record.",),
    fields=(
        TextField("summary", max_length=24),
        EnumField("category", ("Hardware", "Network")),
        DependentEnumField("kind", "category", {"Hardware": ("Printer", "Laptop"), "Network": ("VPN",)}),
        EnumField("priority", ("Low", "High"), ordered=True),
        TagsField("tags", ("vip", "outage"), max_items=2),
    ),
)
SECRET = "zanzibarquux"
"""Stands in every ticket and nowhere else."""

QUIET_SCALE = 0.05


def make_rows(count, seed):
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        kind = chance.choice(["Printer", "Laptop", "VPN"])
        record = {
            "summary": f"{kind} trouble",
            "category": "Network" if kind == "VPN" else "Hardware",
            "kind": kind,
            "priority": chance.choice(["Low", "High"]),
            "tags": [tag for tag in ("vip", "outage") if chance.random() < 0.3],
        }
        rows.append(Row(f"{seed}-{number}", f"{kind} trouble {SECRET} number {number}", record, {}))
    return rows


def write_data(folder: Path, train=24, val=10, test=8) -> Path:
    folder.mkdir(parents=True)
    counts = {"train": train, "val": val, "test": test}
    for seed, (split, count) in enumerate(counts.items()):
        lines = "".join(json.dumps(row.to_json()) + "\n" for row in make_rows(count, seed))
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "schema.yaml").write_text(schema_yaml(SCHEMA), encoding="utf-8")
    manifest = {
        "name": folder.name,
        "schema": SCHEMA.name,
        "schema_fingerprint": SCHEMA.fingerprint,
        "fingerprint": content_fingerprint(folder),
        "files": {f"{split}.jsonl": sha256_file(folder / f"{split}.jsonl") for split in counts},
        "counts": counts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def make_run(folder: Path, data: Path, base: Path, quantization=None, **adapter) -> Path:
    """A run folder as training leaves it; every trained weight is moved from where it began."""
    import torch
    import yaml

    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.adapter_folder import save_adapter
    from triagekit.modeling.adapters import attach_adapter, output_token_ids
    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.settings import AdapterSettings, PromptSettings, QuantizationSettings
    from triagekit.modeling.template import PromptTemplate

    torch.manual_seed(0)
    settings = AdapterSettings.model_validate({"method": "lora", "r": 2, "alpha": 4, **adapter})
    tokenizer = load_tokenizer(str(base))
    prompt = PromptSettings(max_length=384, strategy="implicit")
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, SCHEMA, prompt))
    quantised = QuantizationSettings.model_validate(quantization) if quantization else None
    rows_only = settings.head == "output_tokens"
    model, report = attach_adapter(
        load_base(str(base), "fp32", quantised, "cpu"), settings, output_token_ids(segments) if rows_only else None
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape) * QUIET_SCALE)
    folder.mkdir(parents=True)
    dataset = ProcessedDataset.open(data)
    texts = [row.text for row in dataset.rows("train")[:4]]
    save_adapter(model, folder / "adapter", settings, segments, str(base), report, dataset.fingerprint, texts)
    config = {
        "name": folder.name,
        "base": str(base),
        "data": str(data),
        "output": str(folder.parent),
        "seed": 0,
        "adapter": settings.model_dump(mode="json"),
        "optimizer": {"name": "adamw", "learning_rate": 2e-3, "schedule": "cosine", "warmup_share": 0.05},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps({"train": {"rows": 24}, "val": {"rows": 10}}), encoding="utf-8")
    summary = {"name": folder.name, "status": "finished", "base": str(base), "steps": 3, "effective_batch": 8}
    (folder / "summary.json").write_text(json.dumps({**summary, "epochs": 1.0, "val_loss_best": 0.5}), encoding="utf-8")
    return folder


def logits_of(model, ids):
    """The model's own forward, by the library alone."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].float()


def prompts_of(run: Path) -> list[list[int]]:
    card = json.loads((run / "adapter" / "triagekit.json").read_text())
    return [sample["ids"] for sample in card["parity"]]


def holds_nothing_private(folder: Path, *places) -> list[str]:
    """Files in which a ticket or a place of this machine is found."""
    words = [SECRET, *map(str, places)]
    return [
        f"{path.name}: {word}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for word in words
        if word.encode() in path.read_bytes()
    ]

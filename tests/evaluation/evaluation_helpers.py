"""A small schema with every kind of field, a processed data set, and a run with a random adapter."""

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
    fields=(
        TextField("summary", max_length=40),
        EnumField("category", ("Hardware", "Network", "Access")),
        DependentEnumField(
            "kind", "category", {"Hardware": ("Printer", "Laptop"), "Network": ("VPN",), "Access": ("Password",)}
        ),
        EnumField("priority", ("Low", "Medium", "High", "Critical"), ordered=True),
        EnumField("team", ("Desktop", "Field"), nullable=True),
        TagsField("tags", ("vip", "outage", "security"), max_items=2),
    ),
)
WORDS = {
    "Printer": "printer jams paper toner",
    "Laptop": "laptop screen battery boot",
    "VPN": "vpn tunnel disconnects remote",
    "Password": "password locked reset account",
}


def make_rows(count, seed=0):
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        kind = chance.choice(list(WORDS))
        category = {"VPN": "Network", "Password": "Access"}.get(kind, "Hardware")
        priority = chance.choice(["Low", "Medium", "High", "Critical"])
        tags = [tag for tag in ("vip", "outage") if chance.random() < 0.3]
        words = [*chance.sample(WORDS[kind].split(), 2), priority.lower(), *tags]
        record = {
            "summary": f"{kind} trouble",
            "category": category,
            "kind": kind,
            "priority": priority,
            "team": None if category == "Access" else "Desktop",
            "tags": tags,
        }
        text = f"{kind} trouble\nHello, {' '.join(words)} number {number}"
        rows.append(Row(f"{seed}-{number}", text, record, {"language": "es" if number % 4 == 0 else "en"}))
    return rows


def write_data(folder: Path, train=120, val=20, test=40) -> Path:
    folder.mkdir(parents=True)
    for split, (count, seed) in {"train": (train, 1), "val": (val, 2), "test": (test, 3)}.items():
        lines = "".join(json.dumps(row.to_json()) + "\n" for row in make_rows(count, seed))
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "schema.yaml").write_text(schema_yaml(SCHEMA), encoding="utf-8")
    names = ("train", "val", "test")
    manifest = {
        "name": folder.name,
        "schema": SCHEMA.name,
        "schema_fingerprint": SCHEMA.fingerprint,
        "fingerprint": content_fingerprint(folder),
        "files": {f"{split}.jsonl": sha256_file(folder / f"{split}.jsonl") for split in names},
        "counts": {"train": train, "val": val, "test": test},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def write_run(folder: Path, data: Path, base: Path, seed=0) -> Path:
    """A run folder whose adapter is random: its records are valid by construction and wrong."""
    import torch
    import yaml

    from triagekit.data.dataset import ProcessedDataset
    from triagekit.modeling.adapter_folder import save_adapter
    from triagekit.modeling.adapters import attach_adapter
    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.settings import AdapterSettings, PromptSettings
    from triagekit.modeling.template import PromptTemplate

    torch.manual_seed(seed)
    settings = AdapterSettings(method="lora", r=2, alpha=4)
    tokenizer = load_tokenizer(str(base))
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, SCHEMA, PromptSettings(max_length=1024)))
    model, report = attach_adapter(load_base(str(base), "fp32", device="cpu"), settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.05)
    folder.mkdir(parents=True)
    dataset = ProcessedDataset.open(data)
    save_adapter(model, folder / "adapter", settings, segments, str(base), report, dataset.fingerprint, ["a", "b"])
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"name": folder.name, "data": str(data), "base": str(base), "seed": seed})
    )
    (folder / "summary.json").write_text(json.dumps({"name": folder.name, "status": "finished"}))
    return folder

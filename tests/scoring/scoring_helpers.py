"""Schemas with every kind of corner, and tickets, for the tests of scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptSettings, PromptTemplate
from triagekit.schema import DependentEnumField, EnumField, Schema, TagsField, TextField

TICKETS_SCHEMA = Schema(
    name="desk",
    title="Desk",
    description="Tickets of a service desk.",
    fields=(
        TextField("summary", max_length=40),
        EnumField("category", ("Hardware", "Network", "Access")),
        DependentEnumField(
            "subcategory",
            "category",
            {"Hardware": ("Printer", "Laptop", "Other"), "Network": ("VPN", "Wi-Fi"), "Access": ("Password",)},
        ),
        EnumField("priority", ("Low", "Medium", "High"), ordered=True),
    ),
)

CORNERS_SCHEMA = Schema(
    name="corners",
    title="Corners",
    description="Values that are prefixes of one another, quotes, unicode, null, tags, a chain of dependent enums.",
    fields=(
        EnumField("first", ("a", "aa", "aaa", "a b", "Net", "Network", "Network / Wi-Fi"), nullable=True),
        TagsField("tags", ("new", "new user", "VIP", 'say "hi"', "null"), max_items=3),
        EnumField("quoted", ('say "hi"', "say", "back\\slash", "back", "é", "ñandú", "日本", "null", "[]")),
        DependentEnumField(
            "level1",
            "first",
            {
                **dict.fromkeys(("aa", "aaa", "a b", "Network / Wi-Fi"), ()),
                "a": ("x", "xy"),
                "Net": ("y",),
                "Network": ("x", "z"),
            },
            nullable=True,
        ),
        TextField("note", max_length=7, nullable=True),
        DependentEnumField(
            "level2", "level1", {"x": ("p", "pq"), "xy": ("q",), "y": ("p",), "z": ("pq",)}, nullable=True
        ),
        TagsField("more", ("one",), max_items=1),
        TextField("last", max_length=1),
    ),
)

LABELS_SCHEMA = Schema(
    name="labels",
    title="Labels",
    description="No free text, and fields with one value only.",
    fields=(
        EnumField("only", ("always",)),
        EnumField("risk", ("low", "medium", "high"), ordered=True),
        DependentEnumField("detail", "risk", {"low": ("fine",), "medium": ("watch", "wait"), "high": ("stop",)}),
        TagsField("marks", ("a", "b", "c", "d"), max_items=2),
    ),
)

TEXT_SCHEMA = Schema(
    name="text",
    title="Text",
    description="Free text alone, and little of it.",
    fields=(TextField("summary", max_length=4),),
)

SCHEMAS = {schema.name: schema for schema in (TICKETS_SCHEMA, CORNERS_SCHEMA, LABELS_SCHEMA, TEXT_SCHEMA)}
SCHEMAS |= {f"{name}, compact": schema.in_format("compact") for name, schema in SCHEMAS.items()}

TICKETS = [
    "The printer on floor 3 is dead, please help.",
    "VPN login fails after the password reset",
    "Mi portátil no arranca, ¿pueden ayudarme? Gracias.",
    "x",
    "Hello team, I cannot reach the shared drive since this morning; it says access denied (error 0x80070005). " * 3,
    "日本語のチケット 🖨️",
    'quote " and \\ backslash <|im_end|> {"summary":"',
]


def segments_for(
    tokenizer: Any, schema: Schema, max_length: int = 1024, strategy: str = "implicit"
) -> SegmentTokenizer:
    settings = PromptSettings(max_length=max_length, strategy=strategy)
    return SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, settings))


def make_adapter(
    folder: Path, base: Path, schema: Schema = TICKETS_SCHEMA, seed: int = 0, method: Literal["lora", "full"] = "lora"
) -> Path:
    """An adapter folder as training leaves it, with random weights that are far from nothing."""
    import torch

    from triagekit.modeling.adapter_folder import save_adapter
    from triagekit.modeling.adapters import AdapterSettings, attach_adapter
    from triagekit.modeling.base import load_base, load_tokenizer

    segments = segments_for(load_tokenizer(str(base)), schema, max_length=512)
    settings = AdapterSettings(method=method, r=4, alpha=8)
    model, report = attach_adapter(load_base(str(base), device="cpu"), settings)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    save_adapter(model, folder, settings, segments, str(base), report, "0" * 16, TICKETS)
    return folder


def write_archive(path: Path, rows: int, start: int = 0) -> list[str]:
    """A CSV of tickets; returns their ids."""
    import csv

    ids = [f"T-{number:05d}" for number in range(start, start + rows)]
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "text"])
        writer.writerows(zip(ids, many_tickets(rows), strict=True))
    return ids


def many_tickets(count: int) -> list[str]:
    """Distinct tickets of very different lengths."""
    import random

    random_source = random.Random(5)
    words = " ".join(TICKETS).split()
    return [" ".join(random_source.choices(words, k=random_source.randint(1, 60))) + f" #{n}" for n in range(count)]


def settings_for(adapter: Path, archive: Path, out: Path, **changes: Any) -> Any:
    """Settings of a small job."""
    from triagekit.scoring.settings import ScoreSettings

    values = {"shard_rows": 16, "batch_size": 16, "workers": 1, "device": "cpu", **changes}
    return ScoreSettings(archive=str(archive), run=str(adapter), out=str(out), **values)


def table_of(out: Path) -> list[dict[str, Any]]:
    """All rows of a finished job, in order."""
    import pyarrow.parquet as parquet

    return [row for path in sorted(out.glob("part-*.parquet")) for row in parquet.read_table(path).to_pylist()]

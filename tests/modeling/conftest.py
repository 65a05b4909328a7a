"""A small schema with records, the tiny tokenizer, and saved bases of several families."""

from __future__ import annotations

import pytest
from modeling_helpers import random_model

from triagekit.schema import DependentEnumField, EnumField, Schema, TagsField, TextField


@pytest.fixture(scope="session")
def schema() -> Schema:
    """Every kind of field, nullable ones too."""
    return Schema(
        name="small",
        title="Small",
        description="For tests.",
        fields=(
            TextField("summary", max_length=60),
            EnumField("category", ("Hardware", "Network", 'Odd "quoted" – é')),
            DependentEnumField(
                "subcategory",
                "category",
                {"Hardware": ("Printer", "Laptop"), "Network": ("VPN", "Wi-Fi"), 'Odd "quoted" – é': ("Other",)},
            ),
            EnumField("priority", ("Low", "Medium", "High"), ordered=True, nullable=True),
            TagsField("tags", ("outage", "security", "new starter"), max_items=2),
            TextField("note", max_length=30, nullable=True),
        ),
        instructions=("Turn the ticket into JSON.", "Classify this request.", "Answer with the record."),
    )


@pytest.fixture(scope="session")
def records() -> list[dict]:
    return [
        {
            "summary": "printer on floor 3 is dead",
            "category": "Hardware",
            "subcategory": "Printer",
            "priority": "High",
            "tags": ["outage", "security"],
            "note": 'said "urgent" \\ <|im_end|>',
        },
        {
            "summary": "VPN falló ¿por qué? 日本 🎉",
            "category": "Network",
            "subcategory": "VPN",
            "priority": None,
            "tags": [],
            "note": None,
        },
        {
            "summary": "x",
            "category": 'Odd "quoted" – é',
            "subcategory": "Other",
            "priority": "Low",
            "tags": ["new starter"],
            "note": "n",
        },
    ]


@pytest.fixture(scope="session")
def tokenizer(tiny_model_folder):
    from triagekit.modeling.base import load_tokenizer

    return load_tokenizer(str(tiny_model_folder))


@pytest.fixture(scope="session")
def segments(tokenizer, schema):
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptSettings, PromptTemplate

    settings = PromptSettings(strategy="mixed", max_length=1500)
    return SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, settings))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory, tokenizer):
    """Makes a saved base of any family, beside the tiny tokenizer: base_folder('Qwen3', tied=True)."""
    made = {}

    def make(family: str = "Qwen2", tied: bool = True, dtype: str = "float32") -> str:
        import torch

        key = (family, tied, dtype)
        if key not in made:
            folder = tmp_path_factory.mktemp("_".join(map(str, key)))
            random_model(family, tied, len(tokenizer)).to(getattr(torch, dtype)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = str(folder)
        return made[key]

    return make

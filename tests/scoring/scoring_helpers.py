"""Schemas with every kind of corner, and tickets, for the tests of scoring."""

from __future__ import annotations

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

SCHEMAS = {schema.name: schema for schema in (TICKETS_SCHEMA, CORNERS_SCHEMA, LABELS_SCHEMA)}

TICKETS = [
    "The printer on floor 3 is dead, please help.",
    "VPN login fails after the password reset",
    "Mi portátil no arranca, ¿pueden ayudarme? Gracias.",
    "x",
    "Hello team, I cannot reach the shared drive since this morning; it says access denied (error 0x80070005). " * 3,
    "日本語のチケット 🖨️",
    'quote " and \\ backslash <|im_end|> {"summary":"',
]


def segments_for(tokenizer: object, schema: Schema, max_length: int = 1024) -> SegmentTokenizer:
    return SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, PromptSettings(max_length=max_length)))


def many_tickets(count: int) -> list[str]:
    """Distinct tickets of very different lengths."""
    import random

    random_source = random.Random(5)
    words = " ".join(TICKETS).split()
    return [" ".join(random_source.choices(words, k=random_source.randint(1, 60))) + f" #{n}" for n in range(count)]

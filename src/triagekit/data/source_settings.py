"""How a source is read; every setting has a default that recognises ordinary files by itself."""

from __future__ import annotations

import codecs
from typing import Literal

from pydantic import Field, field_validator

from triagekit.settings import Settings

SourceFormat = Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "text"]


class SourceSettings(Settings):
    """Reading options of a file or folder."""

    format: SourceFormat = Field(default="auto", description="auto: by ending, then by content")
    encoding: str = Field(default="auto", description="auto: by byte-order mark, else UTF-8, else detected")
    delimiter: str = Field(
        default="auto", description="of CSV files; auto: the one of , ; tab | the header has most of"
    )
    columns: tuple[str, ...] | None = Field(default=None, description="column names of CSV files without a header")
    max_row_characters: int = Field(
        default=4_000_000, ge=1000, description="longer rows are rejected; bounds the memory of broken files"
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        if value != "auto":
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError("no such encoding; examples: utf-8, cp1252, utf-16, gb18030") from None
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if value != "auto" and len(value) != 1:
            raise ValueError("a delimiter is one character, or 'auto'")
        return value

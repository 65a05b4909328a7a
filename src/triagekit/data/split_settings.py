"""How rows are divided into train, val and test."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from triagekit.settings import Settings

PRESETS = {
    "80/10/10": (0.10, 0.10),
    # Five per cent to test; of the other 95, five per cent are set aside for choosing the checkpoint (never on test).
    "95:5": (0.0475, 0.05),
}


class SplitSettings(Settings):
    """Method and shares. Near-duplicates always stay together, whatever the method."""

    method: Literal["auto", "random", "time", "group", "official"] = Field(
        default="auto", description="auto: by the column given; official for a folder with train and test; else random"
    )
    preset: Literal["80/10/10", "95:5"] = "80/10/10"
    val: float | None = Field(default=None, ge=0, lt=1, description="share of rows; from the preset where left out")
    test: float | None = Field(default=None, ge=0, lt=1, description="share of rows; from the preset where left out")
    seed: int = 42
    stratify: tuple[str, ...] | None = Field(
        default=None, description="schema fields whose values are spread evenly; left out: all label fields together"
    )
    time: str | None = Field(default=None, description="column with the time; train is the earliest, test the latest")
    time_format: str | None = Field(default=None, description="as in strptime; left out: ISO 8601 or epoch seconds")
    group: str | None = Field(default=None, description="column (customer, thread, family) that no two splits share")
    official: str | None = Field(default=None, description="column saying train, val or test; the file name otherwise")

    @field_validator("preset", mode="before")
    @classmethod
    def _not_base_sixty(cls, value: object) -> object:
        # YAML 1.1 reads an unquoted 95:5 as a number in base 60.
        return "95:5" if value == 95 * 60 + 5 else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        val, test = self.shares()
        if val + test >= 1:
            raise ValueError(f"val and test together take {val + test:.0%} of the rows; nothing is left for train")
        for name in ("time", "group"):
            if self.method == name and getattr(self, name) is None:
                raise ValueError(f"method '{name}' needs its column: {name}: COLUMN")
        given = [name for name in ("time", "group", "official") if getattr(self, name) is not None]
        if self.method == "auto" and len(given) > 1:
            raise ValueError(f"columns for {' and '.join(given)} are given; say which 'method' is meant")
        return self

    def shares(self) -> tuple[float, float]:
        """(val, test) shares of all rows."""
        val, test = PRESETS[self.preset]
        return (val if self.val is None else self.val, test if self.test is None else self.test)

    def resolved_method(self, files_are_splits: bool = False) -> str:
        """The method with `auto` decided."""
        if self.method != "auto":
            return self.method
        for name in ("time", "group", "official"):
            if getattr(self, name) is not None:
                return name
        return "official" if files_are_splits else "random"

"""Measured training rates: from finished runs beside the one that is planned, else from a file of measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from triagekit.files.resources import find_config
from triagekit.files.yaml_file import load_yaml
from triagekit.hardware.devices import same_card
from triagekit.settings import Settings, load_settings


class MeasuredRate(Settings):
    """One measurement: rows a second of all devices together."""

    device: str = Field(description="the card's name, as the driver or configs/hardware/cards.yaml has it, or cpu")
    world: PositiveInt = Field(1, description="processes, one a device")
    base: str
    method: str = Field(description="lora, hybrid or full")
    bits: int | None = Field(None, description="4 or 8 for a quantised base")
    max_length: PositiveInt = Field(description="limit on tokens of the measured run")
    rows_per_second: float = Field(gt=0)
    source: str = Field(description="the benchmark record, or the run, that it comes from")


class RatesFile(Settings):
    """`configs/hardware/rates.yaml`."""

    rates: tuple[MeasuredRate, ...] = ()


@dataclass(frozen=True)
class Workload:
    """What a rate must have been measured on to be used; the data is not part of it, the limit on tokens is."""

    base: str
    method: str
    bits: int | None
    max_length: int


def known_rates(output: Path | str) -> list[MeasuredRate]:
    """Rates of the finished runs in folder `output`, newest first, then those of configs/hardware/rates.yaml."""
    runs = sorted(Path(output).glob("*/summary.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    own = [rate for path in runs if (rate := _rate_of_run(path)) is not None]
    return [*own, *load_settings(RatesFile, find_config("hardware", "rates")).rates]


def find_rate(rates: Sequence[MeasuredRate], workload: Workload, device: str, world: int) -> MeasuredRate | None:
    """The first rate of the same workload on `world` devices of the same name; None when nobody has measured it."""
    for rate in rates:
        measured = Workload(rate.base, rate.method, rate.bits, rate.max_length)
        if measured == workload and rate.world == world and same_card(rate.device, device):
            return rate
    return None


def _rate_of_run(summary_path: Path) -> MeasuredRate | None:
    """The rate of one run; None for a run that is not finished or whose files say too little."""
    folder = summary_path.parent
    try:
        summary = json.loads(summary_path.read_text(encoding="utf-8"))
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        config = load_yaml(folder / "config.yaml").data
        hardware = summary["hardware"]
        cards = [str(card["name"]) for card in hardware["accelerators"]]
        if summary["status"] != "finished" or not summary["rows_per_second"]:
            return None
        quantization: Mapping[str, Any] | None = plan.get("quantization", config.get("quantization"))
        return MeasuredRate(
            device=cards[0] if cards else str(hardware["processor"]),
            world=int(plan.get("world") or 1),
            base=str(summary["base"]),
            method=str(summary["method"]),
            bits=int(quantization.get("bits", 4)) if quantization else None,
            max_length=int(plan.get("max_length") or config["prompt"]["max_length"]),
            rows_per_second=float(summary["rows_per_second"]),
            source=str(folder),
        )
    except (OSError, ValueError, KeyError, TypeError):
        # A folder that is not a run, or one of an earlier version: it says nothing about time.
        return None

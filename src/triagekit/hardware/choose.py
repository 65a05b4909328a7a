"""Which rung a run takes: every rung judged by its devices, forbidden pairs and memory, the best that passes chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from triagekit.errors import Problem, ProblemsError
from triagekit.hardware.devices import GIGABYTE, Device
from triagekit.hardware.forbidden import check_combination
from triagekit.hardware.ladder import Ladder, Rung
from triagekit.hardware.memory import MemoryEstimate, TrainingLoad, base_weights, estimate_memory
from triagekit.hardware.model_shape import ModelShape

USABLE = 0.95
"""Share of a device's memory that an estimate may fill: the allocator's gaps and the display need the rest."""

GIBIBYTE = 2**30


@dataclass(frozen=True)
class RungAssessment:
    """One rung judged for one run.

    `rung` is the ladder's, with fewer rows at once where more would not fit; `fits` says whether it can be taken,
    `reasons` why not, `notes` what is worth knowing if it is. `estimate` is None where the base's sizes are not known;
    `seconds` where no rate was measured. `memory_bytes` is what one device has.
    """

    rung: Rung
    fits: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    estimate: MemoryEstimate | None
    memory_bytes: int
    micro: int | None
    accumulation: int | None
    effective: int
    seconds: float | None = None
    mendable: bool = False
    """Whether nothing but the run's own settings stands against the rung: its device is here, its memory suffices."""

    @property
    def fits_in_memory(self) -> bool | None:
        """Whether the estimate stays below the usable part of one device; None without an estimate."""
        return None if self.estimate is None else self.estimate.peak <= USABLE * self.memory_bytes

    @property
    def batch(self) -> str:
        """`micro × accumulation × world = effective`, the last three as numbers."""
        if self.micro is None or self.accumulation is None:
            return f"? × {self.rung.world} = {self.effective}"
        return f"{self.micro} × {self.accumulation} × {self.rung.world} = {self.effective}"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "rung": self.rung.name,
            "fits": self.fits,
            "fits_in_memory": self.fits_in_memory,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "memory_bytes": self.memory_bytes,
            "estimate": self.estimate.as_dict() if self.estimate else None,
            "micro_batch": self.micro,
            "accumulation": self.accumulation,
            "world": self.rung.world,
            "effective_batch": self.effective,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Assessment:
    """All rungs of a ladder in order, and the chosen one (None: none passes, or none was wanted)."""

    rows: tuple[RungAssessment, ...]
    chosen: RungAssessment | None
    wanted: str = "auto"
    notes: tuple[str, ...] = field(default=())
    steps: int | None = None
    """Optimizer steps of the run, where its data is here."""
    train_rows: int | None = None

    @property
    def lower(self) -> tuple[Rung, ...]:
        """The rungs below the chosen one that pass, best first: where a run goes that ran out of memory."""
        if self.chosen is None:
            return ()
        return tuple(row.rung for row in self.rows[self.rows.index(self.chosen) + 1 :] if row.fits)

    @property
    def passed_over_lines(self) -> tuple[str, ...]:
        """`passed_over` as one line a rung."""
        return tuple(f"{item['rung']}: {'; '.join(item['reasons'])}" for item in self.passed_over)

    @property
    def passed_over(self) -> list[dict[str, Any]]:
        """[{"rung", "reasons"}] of every better rung than the chosen one, best first."""
        rows = self.rows if self.chosen is None else self.rows[: self.rows.index(self.chosen)]
        named = self.wanted not in ("auto", "none")
        return [
            {
                "rung": row.rung.name,
                "reasons": list(row.reasons) or ([f"{self.wanted} was asked for"] if named else []),
            }
            for row in rows
        ]

    def required(self) -> RungAssessment:
        """The chosen rung. Raises ProblemsError with the reasons of every rung that was looked at."""
        if self.chosen is not None:
            return self.chosen
        rows = [row for row in self.rows if self.wanted in ("auto", row.rung.name)]
        raise ProblemsError(
            "No rung of the ladder can take this run:"
            if self.wanted == "auto"
            else f"Rung {self.wanted} cannot be taken:",
            [Problem(f"rung {row.rung.name}", "; ".join(row.reasons) + ".") for row in rows],
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "wanted": self.wanted,
            "chosen": self.chosen.rung.name if self.chosen else None,
            "passed_over": self.passed_over,
            "notes": list(self.notes),
            "steps": self.steps,
            "train_rows": self.train_rows,
            "rungs": [row.as_dict() for row in self.rows],
        }


def assess_ladder(
    ladder: Ladder,
    load_on: Callable[[Rung], TrainingLoad],
    effective: int,
    shape: ModelShape | None,
    devices: Sequence[Device] | None = None,
    *,
    wanted: str = "auto",
    served: Mapping[str, str] | None = None,
    bitsandbytes: bool | None = None,
    seconds_of: Callable[[Rung, TrainingLoad, Device | None], float | None] = lambda rung, load, device: None,
) -> Assessment:
    """Judge every rung of `ladder` for a run and choose.

    `load_on` gives the run's load on a rung; it is asked again with smaller `micro_batch` until the estimate fits.
    `devices` are those of one node, CPU included; None: not known, each rung is judged by the least it asks for.
    `served` names the rungs that a cluster serves; None: any. `wanted` is a rung's name, 'auto' (the first that
    passes) or 'none' (judge only). A named rung is taken although its estimate does not fit, with a note.
    Raises ProblemsError when `wanted` is no rung of the ladder.
    """
    if wanted not in ("auto", "none"):
        ladder.rung(wanted)
    rows = []
    for rung in ladder.rungs:
        named = rung.name == wanted
        device, problems = _device(rung, devices, named)
        if served is not None and rung.name not in served:
            problems.append("not served by this site")
        rows.append(_assess(rung, load_on, effective, shape, device, problems, bitsandbytes, seconds_of, named))
    if devices is not None and wanted == "auto":
        rows = _no_cpu_instead_of_a_card(rows)
    chosen = None
    if wanted != "none":
        chosen = next((row for row in rows if row.fits and wanted in ("auto", row.rung.name)), None)
    return Assessment(tuple(rows), chosen, wanted)


def _no_cpu_instead_of_a_card(rows: list[RungAssessment]) -> list[RungAssessment]:
    """A run whose settings alone keep it off a card that is here is refused, and not sent to the CPU for days."""
    first = next((row for row in rows if row.fits), None)
    above = rows[: rows.index(first)] if first is not None else rows
    refused = next((row for row in above if row.mendable and not row.rung.on_cpu), None)
    if first is None or refused is None or not first.rung.on_cpu:
        return rows
    reason = f"a GPU is here: change the setting that rung {refused.rung.name} refuses, or ask for this rung by name"
    return [replace(row, fits=False, reasons=(*row.reasons, reason)) if row.rung.on_cpu else row for row in rows]


def _device(rung: Rung, devices: Sequence[Device] | None, named: bool) -> tuple[Device | None, list[str]]:
    """The weakest device the rung would use, and why it cannot have what it needs."""
    if devices is None:
        return None, []
    if rung.on_cpu:
        return next((device for device in devices if device.kind == "cpu"), None), []
    reasons = []
    if rung.nodes > 1 and not named:
        reasons.append(f"needs {rung.nodes} nodes: submit it as a job")
    cards = [device for device in devices if device.kind == "cuda"]
    good = [card for card in cards if not _lacks(card, rung)]
    if len(good) >= rung.count:
        return min(good[: rung.count], key=lambda card: card.memory_bytes), reasons
    if rung.count > len(cards):
        have = f"{len(cards)} GPU{'s' if len(cards) != 1 else ''}" if cards else "no GPU"
        reasons.append(
            f"needs {rung.count} GPU{'s' if rung.count != 1 else ''}, there {'are' if len(cards) > 1 else 'is'} {have}"
        )
    reasons.extend(dict.fromkeys(lack for card in cards if (lack := _lacks(card, rung))))
    return None, reasons


def _lacks(card: Device, rung: Rung) -> str:
    if card.memory_bytes < rung.memory_gb * GIGABYTE:
        return f"needs {rung.memory_gb:g} GB, {card.name} has {card.memory_bytes / GIGABYTE:.1f}"
    wanted = rung.minimum_capability
    if wanted is not None and card.capability is not None and card.capability < wanted:
        return f"needs capability {wanted[0]}.{wanted[1]}, {card.name} has {card.capability[0]}.{card.capability[1]}"
    return ""


def _assess(
    rung: Rung,
    load_on: Callable[[Rung], TrainingLoad],
    effective: int,
    shape: ModelShape | None,
    device: Device | None,
    problems: list[str],
    bitsandbytes: bool | None,
    seconds_of: Callable[[Rung, TrainingLoad, Device | None], float | None],
    named: bool,
) -> RungAssessment:
    memory = device.memory_bytes if device is not None else int(rung.memory_gb * GIGABYTE)
    if rung.on_cpu and device is not None:
        memory //= max(1, rung.count)
    if effective % rung.world:
        lower = effective // rung.world * rung.world
        near = f"{lower} or {lower + rung.world}" if lower else str(rung.world)
        problems.append(f"{rung.world} processes cannot share batch.effective {effective} (nearest: {near})")
        return RungAssessment(rung, False, tuple(problems), (), None, memory, None, None, effective)
    wanted = load_on(rung).micro
    for load, one in _smaller(rung, load_on, effective // rung.world):
        estimate = estimate_memory(shape, load, one) if shape is not None else None
        if estimate is None or estimate.peak <= USABLE * memory:
            break
    pairs = [str(problem).rstrip(".") for problem in check_combination(load, one, device, bitsandbytes)]
    problems.extend(pairs)
    notes = []
    asked = rung.micro_batch or wanted
    if load.micro < wanted:
        notes.append(f"{load.micro} rows at once instead of {wanted}: more does not fit")
    elif wanted < min(asked, effective // rung.world):
        notes.append(f"{wanted} rows at once instead of {asked}, which does not divide {effective // rung.world}")
    if estimate is None:
        notes.append("memory not estimated")
    elif estimate.peak > USABLE * memory:
        text = (
            f"needs {estimate.peak / GIBIBYTE:.1f} GiB, {USABLE:.0%} of the device is {USABLE * memory / GIBIBYTE:.1f}"
        )
        (notes if named else problems).append(text + (": by the estimate it does not fit" if named else ""))
    if rung.sharding == "zero3" and shape is not None and base_weights(shape, load) < USABLE * memory:
        text = "ZeRO-3 is for bases that one device cannot hold; this one fits, and ddp or zero2 is faster"
        (notes if named else problems).append(text)
    return RungAssessment(
        rung=one,
        fits=not problems,
        mendable=bool(pairs) and problems == pairs,
        reasons=tuple(problems),
        notes=tuple(notes),
        estimate=estimate,
        memory_bytes=memory,
        micro=load.micro,
        accumulation=effective // (load.micro * rung.world),
        effective=effective,
        seconds=None if problems else seconds_of(one, load, device),
    )


def _smaller(rung: Rung, load_on: Callable[[Rung], TrainingLoad], share: int) -> list[tuple[TrainingLoad, Rung]]:
    """The run's load on the rung, then with ever fewer rows at once; every count divides `share`."""
    first = load_on(rung)
    counts = [rows for rows in range(first.micro - 1, 0, -1) if share % rows == 0]
    fewer = [rung.model_copy(update={"micro_batch": rows}) for rows in counts]
    return [(first, rung), *((load_on(one), one) for one in fewer)]

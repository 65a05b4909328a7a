"""Which rung a start takes: the one that is named, or the best that the devices here can serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from triagekit.errors import TriageError
from triagekit.hardware.choose import Assessment
from triagekit.hardware.devices import Device, cpu_device, detect_devices
from triagekit.hardware.ladder import RESERVED, load_ladder
from triagekit.launching.plan import plan_run
from triagekit.launching.rung_in_force import RungInForce
from triagekit.training.settings import TrainSettings

Notes = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """The rung to try first, and the devices of this node in words."""

    force: RungInForce
    devices: str


def choose_rung(settings: TrainSettings, nodes: int, notes: Notes) -> Choice:
    """The rung for this start on `nodes` nodes, said in one line with why each better one was passed over.

    A rung that is named is taken whatever the estimate of its memory says, for the probe knows better. Raises
    TriageError when the devices here cannot serve it, or when no rung of the ladder fits, with every reason.
    """
    cards, cpu = detect_devices(), cpu_device()
    ladder, name = load_ladder(settings.hardware.ladder), settings.hardware.rung
    here = describe_devices(cards or (cpu,))
    if name not in RESERVED:
        _check_nodes(ladder.rung(name).nodes, name, nodes)
    elif nodes > 1:
        names = [rung.name for rung in ladder.rungs if rung.nodes == nodes]
        raise TriageError(
            f"This step has {nodes} nodes, so the rung must be named: hardware.rung=NAME. Rungs for {nodes} nodes: "
            f"{', '.join(names) or 'none in this ladder (see docs/hardware.md on adding one)'}."
        )
    plan = plan_run(settings, (*cards, cpu), ladder, here=True)
    chosen = plan.required()
    notes(_why(plan, chosen.rung.name, here, bool(cards)))
    lower = tuple(rung for rung in plan.lower if rung.nodes == nodes)
    return Choice(RungInForce(chosen.rung, plan.passed_over_lines, lower, cards), here)


def describe_devices(devices: Sequence[Device]) -> str:
    """`2 × NVIDIA A100-SXM4-80GB`, or the name of the CPU."""
    names = list(dict.fromkeys(device.name for device in devices))
    counts = {name: sum(device.name == name for device in devices) for name in names}
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())


def _why(plan: Assessment, name: str, here: str, has_cards: bool) -> str:
    remarks = "".join(f" {note[0].upper()}{note[1:]}." for note in plan.required().notes)
    if plan.wanted == name:
        return f"Rung {name}, as asked for, on {here}.{remarks}"
    if not has_cards:
        return f"Rung {name}: no GPU was found.{remarks}"
    passed = "; ".join(plan.passed_over_lines)
    return f"Rung {name} on {here}." + (f" Passed over: {passed}." if passed else "") + remarks


def _check_nodes(needed: int, name: str, nodes: int) -> None:
    if needed != nodes:
        raise TriageError(
            f"Rung {name} needs {needed} node{'s' if needed > 1 else ''}, but this start has {nodes}. "
            "Over several nodes, start `triage train` with srun, once a node: "
            f"srun --nodes={needed} --ntasks-per-node=1 triage train … (or: triage submit train)"
        )

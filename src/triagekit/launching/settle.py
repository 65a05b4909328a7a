"""From the rung that should fit to the rung that does: probe, remember, go down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from triagekit.errors import TriageError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_json
from triagekit.hardware.ladder import Rung
from triagekit.launching.probe import ProbeResult, probe, probe_settings
from triagekit.launching.rendezvous import Rendezvous
from triagekit.launching.rung_in_force import RungInForce
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

Notes = Callable[[str], None]
PROBES = "probe.json"
NODES_FOLDER = ".probes"
OTHER_NODES_SECONDS = 900.0
"""How long a node waits for the others' probes: their imports may come from a busy shared file system."""


def settle_rung(
    settings: TrainSettings,
    force: RungInForce,
    devices: str,
    folder: RunFolder,
    place: Rendezvous | None,
    notes: Notes,
) -> RungInForce:
    """`force`, or the first rung below it on which the longest batch fits.

    `devices` says what the rungs are tried on. Results are kept in the run folder, so that a requeued job does not
    probe again; over several nodes a rung fits only where it fits on all of them.
    Raises TriageError when no rung is left.
    """
    kept: list[dict[str, object]] = list(folder.read(folder.folder / PROBES).get("probes", []))
    while is_probed(settings, force.rung):
        key = {
            "rung": force.rung.name,
            "settings": fingerprint_json(
                [probe_settings(settings, force.rung).model_dump(mode="json"), force.rung.model_dump(mode="json")]
            ),
            "devices": devices,
        }
        result = _kept_result(kept, key)
        if result is None:
            notes(f"Probing rung {force.rung.name}: two steps of the longest batch.")
            result = probe(settings, force)
            if place is not None:
                result = _of_all_nodes(result, key, folder, place)
            kept.append({**key, **asdict(result)})
            if place is None or place.node_rank == 0:
                write_json(folder.folder / PROBES, {"probes": kept})
        if result.fits:
            return force
        detail = f" ({result.message})" if result.message else ""
        lower = force.below(f"out of memory in a probe of the longest batch{detail}")
        if lower is None:
            raise TriageError(
                f"Rung {force.rung.name} runs out of memory on {devices} with the longest batch{detail}, "
                "and no rung below it can be served here. Try a smaller prompt.max_length, method: lora instead of "
                "full or hybrid, quantization.bits=4, or a smaller base."
            )
        notes(f"Rung {force.rung.name} runs out of memory{detail}; going down to {lower.rung.name}.")
        force = lower
    return force


def is_probed(settings: TrainSettings, rung: Rung) -> bool:
    """Whether the settings ask for a probe of this rung."""
    return settings.hardware.probe == "always" or (settings.hardware.probe == "auto" and not rung.on_cpu)


def _kept_result(kept: list[dict[str, object]], key: dict[str, str]) -> ProbeResult | None:
    for entry in reversed(kept):
        if all(entry.get(name) == value for name, value in key.items()):
            peak = entry.get("peak_bytes")
            return ProbeResult(
                bool(entry["fits"]), peak if isinstance(peak, int) else None, str(entry.get("message", ""))
            )
    return None


def _of_all_nodes(result: ProbeResult, key: dict[str, str], folder: RunFolder, place: Rendezvous) -> ProbeResult:
    """The nodes' common result, agreed on through files in the run folder, which all of them see."""
    exchange = folder.folder / NODES_FOLDER / place.run_id
    name = f"{key['rung']}-{key['settings']}"
    write_json(exchange / f"{name}-{place.node_rank}.json", asdict(result))
    until = time.monotonic() + OTHER_NODES_SECONDS
    results = [result]
    for node in range(place.nodes):
        if node != place.node_rank:
            results.append(_result_of(exchange / f"{name}-{node}.json", node, until))
    worst = next((other for other in results if not other.fits), None)
    return worst or ProbeResult(True, max(other.peak_bytes or 0 for other in results))


def _result_of(path: Path, node: int, until: float) -> ProbeResult:
    while not path.is_file():
        if time.monotonic() > until:
            raise TriageError(
                f"Node {node} of this step told no result of its probe within {OTHER_NODES_SECONDS:.0f} s "
                f"({path} is missing). See its part of the log, and check that `output` is on a shared file system."
            )
        time.sleep(0.5)
    return ProbeResult(**RunFolder(path.parent).read(path))

"""The ranks that a start would have, chosen as a start chooses them, but neither tried nor started."""

from __future__ import annotations

from collections.abc import Callable

from triagekit.launching import rendezvous
from triagekit.launching.choose import choose_rung
from triagekit.training.ranks import Ranks
from triagekit.training.settings import TrainSettings


def ranks_of_a_start(settings: TrainSettings, notes: Callable[[str], None]) -> Ranks:
    """The first of the ranks that `launch` would start here. Raises TriageError where no rung can take the run."""
    place = rendezvous.from_slurm()
    if settings.hardware.rung == "none" and place is None:
        return Ranks()
    force = choose_rung(settings, place.nodes if place else 1, notes).force
    return Ranks(size=force.rung.world, sharding=force.rung.sharding, rung=force.rung, passed_over=force.passed_over)

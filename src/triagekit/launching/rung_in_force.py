"""The rung that a start uses, handed to its ranks through the environment and recorded by them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triagekit.hardware.devices import GIGABYTE, Device
from triagekit.hardware.ladder import Rung
from triagekit.training.ranks import RUNG


@dataclass(frozen=True)
class RungInForce:
    """A rung, why those above it were not taken (one line each), what could still serve, best first, and the GPUs that
    a process started here sees, in its order."""

    rung: Rung
    passed_over: tuple[str, ...] = ()
    lower: tuple[Rung, ...] = ()
    cards: tuple[Device, ...] = ()

    def to_environment(self) -> dict[str, str]:
        """The variable that ranks read, with the whole rung in it (a site or a ladder file may have changed it), and
        where there are more GPUs than the rung uses, the choice of these."""
        record: dict[str, Any] = {
            "rung": self.rung.name,
            "passed_over": list(self.passed_over),
            "definition": self.rung.model_dump(mode="json"),
        }
        return {RUNG: json.dumps(record, ensure_ascii=False), **visible_cards(self.rung, self.cards, os.environ)}

    @contextlib.contextmanager
    def in_this_process(self) -> Iterator[None]:
        """The same for a run that trains in this very process."""
        own = self.to_environment()
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def below(self, reason: str) -> RungInForce | None:
        """The next rung down, with the reason why this one was left; None when there is none."""
        if not self.lower:
            return None
        passed_over = (*self.passed_over, f"{self.rung.name}: {reason}")
        return RungInForce(self.lower[0], passed_over, self.lower[1:], self.cards)


def visible_cards(rung: Rung, cards: Sequence[Device], environment: Mapping[str, str]) -> dict[str, str]:
    """CUDA's variables by which the processes see only the GPUs that the rung uses; {} where they are to see all.

    One process that sees two GPUs would split its batches over both; and of unlike cards only some may serve.
    """
    if rung.on_cpu or len(cards) <= rung.count:
        return {}
    given = environment.get("CUDA_VISIBLE_DEVICES")
    # Without it, numbers are those of nvidia-smi, which counts by bus.
    order = {} if given is not None else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    names = [str(number) for number in range(len(cards))] if given is None else given.replace(" ", "").split(",")
    least = rung.minimum_capability or (0, 0)
    good = [
        name
        for name, card in zip(names, cards, strict=False)
        if card.memory_bytes >= rung.memory_gb * GIGABYTE and (card.capability is None or card.capability >= least)
    ]
    if len(good) < rung.count:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(good[: rung.count]), **order}

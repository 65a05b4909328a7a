"""The launcher's own process in tests: starts two fake ranks and prints how they ended as one line of JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from triagekit.hardware.ladder import Rung
from triagekit.launching.rendezvous import from_slurm
from triagekit.launching.run_ranks import run_ranks
from triagekit.launching.rung_in_force import RungInForce

TWO = Rung.model_validate(
    {
        "name": "two",
        "count": 2,
        "device": "cpu",
        "memory_gb": 1,
        "launcher": "cpu_ddp",
        "sharding": "ddp",
        "precision": "fp32",
    }
)

NODES = Rung.model_validate({**TWO.model_dump(), "count": 1, "nodes": 2})

if __name__ == "__main__":
    place = from_slurm()
    end = run_ranks(
        RungInForce(NODES if place else TWO),
        place,
        "fake_rank",
        sys.argv[1:],
        {"PYTHONPATH": str(Path(__file__).parent)},
    )
    print("END " + json.dumps(asdict(end)), flush=True)

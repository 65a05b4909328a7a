"""The words and the environment that start the ranks of one node: `accelerate launch` with a shipped config."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from triagekit.files.resources import find_config
from triagekit.hardware.ladder import Rung
from triagekit.launching.rendezvous import Rendezvous

JOIN_SECONDS = 900
"""How long nodes wait for each other: imports from a shared file system take minutes when a cluster is busy."""


def agent_words(rung: Rung, place: Rendezvous | None, module: str, words: Sequence[str]) -> list[str]:
    """Words that run `module words…` in every rank of this node; each rank gets exactly `words`."""
    config = find_config("accelerate", rung.launcher)
    nodes = place.nodes if place else 1
    own = [
        *("--config_file", str(config)),
        *("--num_processes", str(rung.world), "--num_machines", str(nodes)),
        *("--machine_rank", str(place.node_rank if place else 0)),
    ]
    if place is None:
        own += ["--main_process_port", "0"]
    else:
        own += [
            *("--main_process_ip", place.master_address, "--main_process_port", str(place.master_port)),
            *("--rdzv_backend", "c10d"),
            *("--rdzv_conf", f"is_host={int(place.node_rank == 0)},join_timeout={JOIN_SECONDS},timeout={JOIN_SECONDS}"),
        ]
    # torch's agent fills ${local_rank} into the words, by rules that turn `$$` into `$`.
    kept = [word.replace("$", "$$") for word in words]
    return [sys.executable, "-m", "triagekit.launching.agent", *own, "-m", module, *kept]


def agent_environment(rung: Rung, place: Rendezvous | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the agent, and so of its ranks."""
    own = dict(environment)
    own.setdefault("OMP_NUM_THREADS", str(max(1, _cores(environment) // max(1, rung.count))))
    if place is None:
        # A meeting place on a port that the kernel picks: two runs on one machine cannot meet each other.
        own["PET_STANDALONE"] = "1"
    else:
        own["PET_RDZV_ID"] = place.run_id
        # Also where a config says `same_network`, with which accelerate leaves c10d to guess 'localhost'.
        own["PET_RDZV_ENDPOINT"] = f"{place.master_address}:{place.master_port}"
        if place.node_name:
            own["PET_LOCAL_ADDR"] = place.node_name
    return own


def _cores(environment: Mapping[str, str]) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Where Slurm does not bind a job to its cores, it still says how many are the job's.
    own = environment.get("SLURM_CPUS_ON_NODE", "")
    return min(cores, int(own)) if own.isdigit() else cores

"""Where the nodes of one run meet. Read from Slurm; a missing piece is an error, never a guess.

A node that fell back to 'localhost' would train alone in a world of its own and look healthy.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from triagekit.errors import Problem, ProblemsError, TriageError

FIRST_PORT = 15000
PORTS = 16000
"""Ports 15000 to 30999: below the range from which Linux gives ports to outgoing connections."""
SCONTROL_SECONDS = 30.0


@dataclass(frozen=True)
class Rendezvous:
    """A c10d meeting point: the same address, port and run id on every node, and each node's own number."""

    nodes: int
    node_rank: int
    master_address: str
    master_port: int
    run_id: str
    node_name: str = ""


def nodes_here(environment: Mapping[str, str] | None = None) -> int:
    """Nodes on which this very command was started: those of the Slurm step, 1 outside a step."""
    values = os.environ if environment is None else environment
    if "SLURM_STEP_ID" not in values:
        return 1
    return int(values.get("SLURM_STEP_NUM_NODES") or values.get("SLURM_NNODES") or 1)


def is_first_node(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this is the node that talks to people: the only one, or the step's first."""
    values = os.environ if environment is None else environment
    return nodes_here(values) == 1 or values.get("SLURM_NODEID", "0") == "0"


def nodes_left_out(environment: Mapping[str, str] | None = None) -> int:
    """Nodes of this Slurm job that a start in its batch script, without srun, leaves idle."""
    values = os.environ if environment is None else environment
    return 0 if "SLURM_STEP_ID" in values else max(0, int(values.get("SLURM_NNODES") or 1) - 1)


def from_slurm(environment: Mapping[str, str] | None = None) -> Rendezvous | None:
    """The meeting point of a Slurm step over several nodes; None outside one, or when the step has one node.

    Raises ProblemsError naming every variable that is missing, TriageError when the step does not have one task a node
    or scontrol gives no answer.
    """
    values = os.environ if environment is None else environment
    nodes = nodes_here(values)
    tasks = int(values.get("SLURM_STEP_NUM_TASKS") or values.get("SLURM_NTASKS") or nodes)
    if "SLURM_STEP_ID" in values and tasks != nodes:
        raise TriageError(
            f"This Slurm step runs {tasks} tasks on {nodes} node{'s' if nodes != 1 else ''}, but `triage train` starts "
            f"the processes of a node itself. Start it once a node: srun --ntasks={nodes} --ntasks-per-node=1 …"
        )
    if nodes == 1:
        return None
    wanted = {
        "SLURM_JOB_ID": "the job's number, from which port and run id follow",
        "SLURM_NODEID": "this node's number within the step",
        "SLURM_JOB_NODELIST": "the nodes; the first one is the meeting point",
    }
    missing = [Problem(name, f"is not set: {what}.") for name, what in wanted.items() if not values.get(name)]
    if missing:
        raise ProblemsError(
            f"This Slurm step has {nodes} nodes, but where they are to meet cannot be told. Start with srun inside an "
            "sbatch or salloc job, and let it pass its environment on (no --export=NONE):",
            missing,
        )
    # The step's own list, where it has one: a step may use fewer nodes than its job.
    names = host_names(values.get("SLURM_STEP_NODELIST") or values["SLURM_JOB_NODELIST"])
    rank = int(values["SLURM_NODEID"])
    if len(names) != nodes or not 0 <= rank < nodes:
        raise TriageError(
            f"Slurm names {len(names)} nodes ({', '.join(names)}) and gives this one the number {rank}, "
            f"but the step is said to have {nodes}."
        )
    job, restart = int(values["SLURM_JOB_ID"]), int(values.get("SLURM_RESTART_COUNT") or 0)
    # Jobs with neighbouring numbers may share a node, and a restarted job must not meet its own remains.
    port = FIRST_PORT + (job * 37 + restart * 11) % PORTS
    return Rendezvous(nodes, rank, names[0], port, f"triage-{job}-{restart}", names[rank])


def host_names(node_list: str) -> list[str]:
    """Slurm's compressed list of nodes, e.g. `a[1-2]`, as names. Raises TriageError when scontrol cannot be asked."""
    words = ["scontrol", "show", "hostnames", node_list]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=SCONTROL_SECONDS, check=False)
    except FileNotFoundError:
        raise TriageError(
            f"`{' '.join(words)}` cannot be run on this node: no scontrol in PATH. The nodes of the job cannot be told "
            "without it; put Slurm's bin folder into PATH (site profile: environment or modules)."
        ) from None
    except subprocess.TimeoutExpired:
        raise TriageError(f"`{' '.join(words)}` gave no answer within {SCONTROL_SECONDS:.0f} s.") from None
    names = answer.stdout.split()
    if answer.returncode or not names:
        raise TriageError(f"`{' '.join(words)}` failed: {answer.stderr.strip() or 'it named no node'}.")
    return names

"""The cluster as Slurm describes it now: settings, partitions and nodes, parsed from what `scontrol show` prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from triagekit.cluster.durations import parse_duration
from triagekit.cluster.slurm_commands import parse_key_values, run_slurm

DEAD_STATES = ("DOWN", "DRAIN", "FAIL", "NO_RESPOND", "NOT_RESPONDING", "UNKNOWN", "FUTURE")
"""Parts of a node's state in which it takes no job."""

_SECONDS = 30.0
_PATIENCE = 10.0
_UNLIMITED = {"UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", ""}


@dataclass(frozen=True)
class Node:
    """`gpus` counts by type, in lower case ("" for GPUs without a type); `memory` is in MiB."""

    name: str
    state: str
    partitions: frozenset[str]
    processors: int
    memory: int
    gpus: Mapping[str, int]
    features: frozenset[str]

    @property
    def alive(self) -> bool:
        """Whether it may run jobs, now or when the present ones end."""
        return not any(word in self.state for word in DEAD_STATES) and not self.state.endswith("*")


@dataclass(frozen=True)
class Partition:
    """`max_time` and `default_time` are in seconds, None for no limit."""

    name: str
    state: str
    node_count: int
    max_time: int | None
    default_time: int | None
    preempt_mode: str
    grace_time: int
    tier: int
    accounts: frozenset[str] | None
    qualities: frozenset[str] | None
    is_default: bool


@dataclass(frozen=True)
class LiveCluster:
    """Settings of `scontrol show config` by their own names, partitions by name, nodes."""

    settings: Mapping[str, str]
    partitions: Mapping[str, Partition]
    nodes: tuple[Node, ...]

    @property
    def version(self) -> str:
        """Of Slurm, e.g. 22.05.8."""
        return self.settings.get("SLURM_VERSION", "unknown")

    @property
    def sends_user_signal(self) -> bool:
        """Whether a job that is preempted gets the signal it asked for before SIGTERM."""
        return "preempt_send_user_signal" in self.settings.get("SlurmctldParameters", "")

    def preempted_in(self, partition: str) -> bool:
        """Whether a job there may have to make room: for a higher tier on the same nodes, or for another QOS."""
        kind = self.settings.get("PreemptType", "preempt/none").rpartition("/")[2]
        own = self.partitions[partition]
        if kind == "none" or own.preempt_mode.split(",")[0] in {"OFF", "N/A"}:
            return False
        if kind != "partition_prio":
            return True
        higher = {name for name, other in self.partitions.items() if other.tier > own.tier}
        return any(higher & node.partitions for node in self.nodes_of(partition))

    def nodes_of(self, partition: str) -> list[Node]:
        """Nodes of a partition, dead ones too."""
        return [node for node in self.nodes if partition in node.partitions]


def read_cluster() -> LiveCluster:
    """Ask Slurm. Raises TriageError where there is none, or where it does not answer."""
    return parse_cluster(
        lambda what: run_slurm("scontrol", "--oneliner", "--all", "show", what, timeout=_SECONDS, patience=_PATIENCE)
    )


def parse_cluster(show: Callable[[str], str]) -> LiveCluster:
    """`show("config" | "partition" | "node")` gives what `scontrol --oneliner show …` prints."""
    partitions = [
        _partition(parse_key_values(line)) for line in show("partition").splitlines() if "PartitionName=" in line
    ]
    nodes = [_node(parse_key_values(line)) for line in show("node").splitlines() if "NodeName=" in line]
    return LiveCluster(parse_settings(show("config")), {item.name: item for item in partitions}, tuple(nodes))


def parse_settings(text: str) -> dict[str, str]:
    """`Name = value` lines."""
    pairs = (line.partition("=") for line in text.splitlines() if re.match(r"\s*\w+\s*=", line))
    return {name.strip(): value.strip() for name, _, value in pairs}


def seconds(text: str | None) -> int | None:
    """Seconds of a time limit as Slurm prints it; None for no limit."""
    return None if text is None or text in _UNLIMITED else parse_duration(text)


def mebibytes(text: str) -> int:
    """MiB of a Slurm memory size: `8000`, `8000M`, `64G`, `1T`. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"'{text}' is no memory size such as 64G")
    return int(float(match[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2].upper()])


def parse_gpus(text: str | None) -> dict[str, int]:
    """Counts by type of `gpu:a100:2(S:0-1),gpu:t4:1`, `gpu:2` (type ""), `gpu` (one); other resources are left out."""
    counts: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", text or "").split(","):
        words = item.strip().split(":")
        if words[0] != "gpu":
            continue
        count = int(words[-1]) if words[-1].isdigit() else 1
        kind = words[1].lower() if len(words) > 1 and not words[1].isdigit() else ""
        counts[kind] = counts.get(kind, 0) + count
    return counts


def _partition(pairs: Mapping[str, str]) -> Partition:
    return Partition(
        name=pairs["PartitionName"],
        state=pairs.get("State", "UP"),
        node_count=int(pairs.get("TotalNodes", "0")),
        max_time=seconds(pairs.get("MaxTime")),
        default_time=seconds(pairs.get("DefaultTime")),
        preempt_mode=pairs.get("PreemptMode", "OFF").strip(),
        grace_time=int(pairs.get("GraceTime", "0")),
        tier=int(pairs.get("PriorityTier", "1")),
        accounts=_names(pairs.get("AllowAccounts")),
        qualities=_names(pairs.get("AllowQos")),
        is_default=pairs.get("Default") == "YES",
    )


def _node(pairs: Mapping[str, str]) -> Node:
    features = {*_words(pairs.get("AvailableFeatures")), *_words(pairs.get("ActiveFeatures"))}
    return Node(
        name=pairs["NodeName"],
        state=(pairs.get("State", "").split() or ["UNKNOWN"])[0],
        partitions=frozenset(_words(pairs.get("Partitions"))),
        processors=int(pairs.get("CPUTot", "0")),
        memory=int(pairs.get("RealMemory", "0")),
        gpus=parse_gpus(pairs.get("Gres")),
        features=frozenset(features),
    )


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None or text in {"ALL", "N/A"} else frozenset(_words(text))


def _words(text: str | None) -> list[str]:
    return (
        []
        if text is None or text.strip() in {"(null)", "N/A"}
        else [word.strip() for word in text.split(",") if word.strip()]
    )

"""What Slurm's commands print, read into types: explicit separators and fields, as versions from 22.05 on have them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

# Unit separator: it stands in no job name, path or node list, whatever people type.
SEPARATOR = "\x1f"
QUEUE_FIELDS = {
    "array_job_id": "%F",
    "job_id": "%i",
    "state": "%T",
    "reason": "%r",
    "partition": "%P",
    "elapsed": "%M",
    "time_limit": "%l",
    "nodes": "%D",
    "where": "%R",
    "start": "%S",
    "user": "%u",
    "dependency": "%E",
    "work_directory": "%Z",
    "command": "%o",
    "name": "%j",
}
PARTITION_FIELDS = {
    "name": "%P",
    "available": "%a",
    "time_limit": "%l",
    "nodes": "%D",
    "states": "%T",
    "gres": "%G",
    "features": "%f",
    "cpus": "%c",
    "memory_mb": "%m",
}
QUEUE_FORMAT = SEPARATOR.join(QUEUE_FIELDS.values())
PARTITION_FORMAT = SEPARATOR.join(PARTITION_FIELDS.values())
FINAL_STATES = frozenset(
    [
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "TIMEOUT",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "BOOT_FAIL",
        "DEADLINE",
        "PREEMPTED",
        "REVOKED",
    ]
)


@dataclass(frozen=True)
class QueuedJob:
    """One line of `squeue`, in Slurm's words. `job_id` of array members is `12_3`, of waiting ones `12_[4-9%2]`."""

    array_job_id: str
    job_id: str
    state: str
    reason: str
    partition: str
    elapsed: str
    time_limit: str
    nodes: str
    where: str
    start: str
    user: str
    dependency: str
    work_directory: str
    command: str
    name: str


@dataclass(frozen=True)
class PartitionNodes:
    """One line of `sinfo`: nodes of one partition that are alike. `name` is without the default's star."""

    name: str
    default: bool
    available: str
    time_limit: str
    nodes: int
    states: str
    gres: str
    features: str
    cpus: str
    memory_mb: str


@dataclass(frozen=True)
class StartEstimate:
    """Slurm's guess for one request: `start` is None when it gave none, and `message` then holds its words; `refused`
    when it would not take the request at all."""

    start: datetime | None
    partition: str | None
    nodes: str | None
    message: str
    refused: bool = False


@dataclass(frozen=True)
class JobState:
    """Where a job stands: Slurm's state word without additions, exit code and signal, and the number of restarts."""

    state: str
    exit_code: int
    signal: int
    restarts: int | None

    @property
    def is_final(self) -> bool:
        """Whether Slurm will not touch this job again by itself."""
        return self.state in FINAL_STATES


def parse_start_estimate(text: str) -> StartEstimate:
    """Of `sbatch: Job 8 to start at 2026-11-21T06:50:00 using 1 processors on nodes a1 in partition gpuA`."""
    match = re.search(r"to start at (\S+)(?: a)?(?: using \d+ processors)?(?: on (?:nodes )?(\S+))?", text)
    partition = re.search(r"in partition (\S+)", text)
    start: datetime | None = None
    if match:
        try:
            start = datetime.fromisoformat(match[1])
        except ValueError:
            start = None
    return StartEstimate(
        start, partition[1] if partition else None, match[2] if match and match[2] else None, text.strip()
    )


def parse_squeue(text: str) -> list[QueuedJob]:
    """Lines of `squeue` in this module's own format."""
    rows = (line.split(SEPARATOR) for line in text.splitlines() if line.strip())
    return [QueuedJob(**dict(zip(QUEUE_FIELDS, row, strict=True))) for row in rows]


def parse_key_values(line: str) -> dict[str, str]:
    """`Key=value Other=value with spaces` as a dict; the first of equal keys stays."""
    found: dict[str, str] = {}
    for part in re.split(r"\s(?=[A-Z][A-Za-z0-9_/:]*=)", line.strip()):
        key, equals, value = part.partition("=")
        if equals:
            found.setdefault(key, value)
    return found


def parse_sinfo(text: str) -> list[PartitionNodes]:
    """Lines of `sinfo` in this module's own format."""
    partitions = []
    for line in text.splitlines():
        if not line.strip():
            continue
        row = dict(zip(PARTITION_FIELDS, (cell.strip() for cell in line.split(SEPARATOR)), strict=True))
        name, nodes = row.pop("name"), row.pop("nodes")
        partitions.append(PartitionNodes(name=name.rstrip("*"), default=name.endswith("*"), nodes=int(nodes), **row))
    return partitions


def parse_sacct(text: str) -> JobState | None:
    """The last line of `sacct -n -P -X -o JobID,State,ExitCode`; `CANCELLED by 1000` is CANCELLED."""
    lines = [line.split("|") for line in text.splitlines() if line.count("|") >= 2]
    if not lines:
        return None
    _, state, exit_code = lines[-1][:3]
    code, _, signal = exit_code.partition(":")
    return JobState(state.split()[0].rstrip("+"), int(code or 0), int(signal or 0), None)

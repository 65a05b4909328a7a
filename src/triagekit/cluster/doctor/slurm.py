"""Slurm as seen from here: its version, and the settings that decide how jobs are stopped, requeued and limited."""

from __future__ import annotations

import os
import re
import shutil

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.durations import in_words
from triagekit.cluster.live_cluster import LiveCluster, Partition, read_cluster
from triagekit.errors import TriageError

SECTION = "Slurm"
USUAL_ARRAY_SIZE = 1001

_NOT_SET_UP = re.compile(r"configuration source|fetch_config|slurm\.conf", re.IGNORECASE)


def check_slurm() -> list[Finding]:
    """All of it; a machine without Slurm is only noted."""
    if shutil.which("scontrol") is None:
        detail = "not on this machine: everything but `triage submit`, `jobs` and `site check` works"
        return [Finding(SECTION, "commands", "note", detail)]
    try:
        cluster = read_cluster()
    except TriageError as error:
        if _NOT_SET_UP.search(str(error)):
            detail = "its commands are here, but no cluster is set up behind them"
            return [Finding(SECTION, "commands", "note", detail, "On a cluster: use a login node, or set SLURM_CONF.")]
        fix = "If this is a login node of the cluster, ask its administrators; scontrol ping shows the controller."
        return [Finding(SECTION, "controller", "problem", f"does not answer: {error}", fix)]
    return check_cluster(cluster)


def check_cluster(cluster: LiveCluster) -> list[Finding]:
    """The settings that matter, as findings."""
    partitions = list(cluster.partitions.values())
    name = cluster.settings.get("ClusterName", "")
    job = os.environ.get("SLURM_JOB_ID")
    inside = f", inside job {job}" if job else ""
    return [
        Finding(SECTION, "version", "ok", f"{cluster.version}, cluster '{name}'{inside}"),
        Finding(SECTION, "partitions", "ok", "; ".join(_describe(item) for item in partitions) or "none to be seen"),
        _preemption(cluster, partitions),
        _requeue(cluster),
        _limits(cluster),
        _arrays(cluster),
        _kill_wait(cluster),
        _accounting(cluster),
    ]


def _describe(partition: Partition) -> str:
    limit = "no time limit" if partition.max_time is None else f"at most {in_words(partition.max_time)}"
    default = "" if partition.default_time is None else f", {in_words(partition.default_time)} if none is given"
    return f"{partition.name} ({partition.node_count} node{'s' if partition.node_count != 1 else ''}, {limit}{default})"


def _preemption(cluster: LiveCluster, partitions: list[Partition]) -> Finding:
    preempted = [item.name for item in partitions if cluster.preempted_in(item.name)]
    if not preempted:
        return Finding(SECTION, "preemption", "ok", "off: no job is stopped for another one")
    where = f"jobs in {', '.join(preempted)} can be preempted"
    if cluster.sends_user_signal:
        return Finding(SECTION, "preemption", "ok", f"{where}; preempt_send_user_signal gives them their signal first")
    grace = min(item.grace_time for item in partitions if item.name in preempted)
    detail = f"{where}; without preempt_send_user_signal they get SIGTERM {grace} s before the end"
    return Finding(SECTION, "preemption", "note", detail, "Save often enough that steps since then may be lost.")


def _requeue(cluster: LiveCluster) -> Finding:
    if cluster.settings.get("JobRequeue") == "1":
        return Finding(SECTION, "JobRequeue", "ok", "1: a job may go back into the queue and continue")
    detail = "0: only jobs that ask for it (--requeue, as triage does) go back into the queue"
    return Finding(SECTION, "JobRequeue", "note", detail, "Where even that is refused: requeue: successor in the site")


def _limits(cluster: LiveCluster) -> Finding:
    value = cluster.settings.get("EnforcePartLimits", "NO")
    if value in {"ALL", "ANY", "YES"}:
        return Finding(SECTION, "EnforcePartLimits", "ok", f"{value}: a job that can never start is refused at once")
    detail = f"{value}: a job over a partition's limits waits for ever instead of being refused"
    return Finding(SECTION, "EnforcePartLimits", "note", detail, "triage site check SITE finds such limits beforehand.")


def _arrays(cluster: LiveCluster) -> Finding:
    size = int(cluster.settings.get("MaxArraySize", str(USUAL_ARRAY_SIZE)))
    if size == 0:
        return Finding(SECTION, "MaxArraySize", "note", "0: no job arrays", "Submit the members of a sweep one by one.")
    return Finding(SECTION, "MaxArraySize", "ok", f"{size}: a sweep has at most {size - 1} members in one array")


def _kill_wait(cluster: LiveCluster) -> Finding:
    value = cluster.settings.get("KillWait", "30 sec")
    return Finding(SECTION, "KillWait", "ok", f"{value} between SIGTERM and SIGKILL at the time limit")


def _accounting(cluster: LiveCluster) -> Finding:
    if cluster.settings.get("AccountingStorageType", "").endswith("none"):
        detail = "off: sacct answers nothing, states of past jobs come from the run folders"
        return Finding(SECTION, "accounting", "note", detail)
    return Finding(SECTION, "accounting", "ok", "on: sacct answers for past jobs")

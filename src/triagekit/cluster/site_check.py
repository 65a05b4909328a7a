"""A site profile against the live cluster: everything that would make its jobs wait for ever, fail, or not survive."""

from __future__ import annotations

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.durations import in_words, parse_duration
from triagekit.cluster.live_cluster import LiveCluster, read_cluster
from triagekit.cluster.site_check_accounts import check_accounts, read_associations
from triagekit.cluster.site_check_node import check_node
from triagekit.cluster.site_check_place import check_place
from triagekit.cluster.sites import RungPlace, SiteSettings
from triagekit.errors import ProblemsError, TriageError, did_you_mean
from triagekit.hardware.ladder import SHIPPED, Ladder, load_ladder

SECTION = "site"
SHOWN = ("JobRequeue", "PreemptType", "EnforcePartLimits", "MaxArraySize")
CHECKPOINT_SECONDS = 60
"""A warning shorter than this leaves a rank too little time to finish its step and save."""


def check_site(site: SiteSettings, cluster: LiveCluster | None = None) -> list[Finding]:
    """Every finding at once. `cluster`: what Slurm says now (read here when not given).

    Raises TriageError where there is no Slurm to ask.
    """
    cluster = read_cluster() if cluster is None else cluster
    settings = ", ".join(f"{name}={cluster.settings.get(name, '?')}" for name in SHOWN)
    detail = f"Slurm {cluster.version}, {len(cluster.partitions)} partitions, {settings}"
    findings = [Finding(SECTION, "cluster", "ok", detail)]
    ladder = _ladder(site, findings)
    for name in site.rungs:
        rung = None
        if ladder is not None:
            if name in ladder.names:
                rung = ladder.rung(name)
            else:
                fix = f"{did_you_mean(name, ladder.names)} Own rungs: ladder_overrides.add in the profile."
                findings.append(Finding(f"rung {name}", "ladder", "problem", "is no rung of the ladder", fix))
        findings.extend(check_place(f"rung {name}", site.place(name), cluster, rung))
        findings.extend(_check_survival(f"rung {name}", site, site.place(name), cluster))
    for kind in site.jobs:
        findings.extend(check_place(f"job {kind}", site.job_place(kind), cluster, None))
    findings.extend(check_accounts(site, cluster, read_associations()))
    findings.extend(_check_arrays(site, cluster))
    findings.extend(check_node(site))
    return findings


def _ladder(site: SiteSettings, findings: list[Finding]) -> Ladder | None:
    try:
        return load_ladder(site.ladder or SHIPPED, site.ladder_overrides or None)
    except ProblemsError as error:
        for problem in error.problems:
            findings.append(Finding(SECTION, "ladder", "problem", f"{problem.where}: {problem.message}", problem.hint))
    except TriageError as error:
        findings.append(Finding(SECTION, "ladder", "problem", str(error), "Name a shipped ladder or a file."))
    return None


def _check_survival(section: str, site: SiteSettings, place: RungPlace, cluster: LiveCluster) -> list[Finding]:
    """Whether a job there is warned before it is stopped, and goes on afterwards."""
    findings = []
    limit = None if place.time_limit is None else parse_duration(place.time_limit)
    if limit is not None and site.signal_seconds >= limit:
        detail = f"the warning comes {site.signal_seconds} s before the end of a job of {in_words(limit)}"
        findings.append(Finding(section, "signal", "problem", detail, "A longer time_limit, or less signal_seconds."))
    partition = cluster.partitions.get(place.partition or "")
    if partition is None:
        return findings
    mode = partition.preempt_mode.split(",")[0]
    if cluster.preempted_in(partition.name):
        if mode == "CANCEL" and site.requeue == "requeue":
            detail = (
                f"partition {partition.name} cancels preempted jobs (PreemptMode=CANCEL) instead of requeueing them"
            )
            findings.append(Finding(section, "preemption", "problem", detail, "requeue: successor in the profile"))
        elif not cluster.sends_user_signal:
            detail = f"a preempted job gets SIGTERM only, {partition.grace_time} s before SIGKILL"
            fix = (
                "Save often (checkpoint settings); administrators can set SlurmctldParameters=preempt_send_user_signal."
            )
            findings.append(Finding(section, "preemption", "note", detail, fix))
        elif partition.grace_time == 0:
            wait = cluster.settings.get("KillWait", "30 sec")
            detail = f"a preempted job gets its signal, but no GraceTime: SIGKILL after KillWait ({wait})"
            findings.append(Finding(section, "preemption", "note", detail, "Save often: checkpoint settings"))
        else:
            detail = f"a preempted job gets its signal {partition.grace_time} s before it is stopped"
            findings.append(Finding(section, "preemption", "ok", detail))
    if site.requeue == "requeue" and cluster.settings.get("JobRequeue") == "0":
        detail = "JobRequeue=0: only jobs that ask for it are requeued (triage's do)"
        findings.append(Finding(section, "requeue", "note", detail, "If they stay down: requeue: successor"))
    return findings


def _check_arrays(site: SiteSettings, cluster: LiveCluster) -> list[Finding]:
    findings = []
    if site.signal_seconds < CHECKPOINT_SECONDS:
        detail = f"signal_seconds: {site.signal_seconds} leaves little time to finish a step and save"
        findings.append(Finding(SECTION, "signal", "note", detail, f"signal_seconds: {2 * CHECKPOINT_SECONDS}"))
    size = int(cluster.settings.get("MaxArraySize", "1001"))
    if site.max_array_tasks >= size:
        detail = f"max_array_tasks: {site.max_array_tasks}, but MaxArraySize of the cluster is {size}"
        findings.append(Finding(SECTION, "arrays", "problem", detail, f"max_array_tasks: {max(1, size - 1)} or less"))
    return findings

"""One place of a site profile (partition, GPUs, features, limits) against the nodes that are really there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.durations import in_words, parse_duration, slurm_time
from triagekit.cluster.live_cluster import LiveCluster, Node, Partition, mebibytes, parse_gpus
from triagekit.cluster.sites import RungPlace
from triagekit.errors import did_you_mean
from triagekit.hardware.ladder import Rung


def check_place(section: str, place: RungPlace, cluster: LiveCluster, rung: Rung | None) -> list[Finding]:
    """Findings about one place; one line `ok` when nothing is wrong. `rung`: what is to run there, if it is a rung."""
    partition, findings = _find_partition(section, place, cluster)
    if partition is None:
        return findings
    nodes = cluster.nodes_of(partition.name)
    findings += _check_state(section, partition, nodes)
    findings += _check_time(section, place, partition)
    # Nodes that are down today are counted for what they have: the profile is right, the cluster is not whole.
    aspects = [
        *_check_gpus(section, place, partition, nodes, cluster, rung),
        *_check_features(section, place, partition, nodes),
        *_check_sizes(section, place, partition, nodes),
    ]
    findings += aspects or _check_together(section, place, partition, nodes, rung)
    if not any(finding.status == "problem" for finding in findings):
        findings.insert(0, Finding(section, "place", "ok", _describe(place, partition, nodes)))
    return findings


def _find_partition(section: str, place: RungPlace, cluster: LiveCluster) -> tuple[Partition | None, list[Finding]]:
    if place.partition is None:
        default = next((item for item in cluster.partitions.values() if item.is_default), None)
        if default is None:
            fix = f"partition: one of {', '.join(cluster.partitions)}"
            detail = "names no partition, and the cluster has no default one"
            return None, [Finding(section, "partition", "problem", detail, fix)]
        return default, []
    # Slurm takes a list of partitions too; each must exist, and the first is looked at.
    names = [name.strip() for name in place.partition.split(",")]
    findings = [
        Finding(section, "partition", "problem", f"no partition '{name}' here", did_you_mean(name, cluster.partitions))
        for name in names
        if name not in cluster.partitions
    ]
    # Where only the case is wrong, the rest is checked too: all mistakes at once.
    meant = next((item for name, item in cluster.partitions.items() if name.casefold() == names[0].casefold()), None)
    return (meant if findings else cluster.partitions[names[0]]), findings


def _check_state(section: str, partition: Partition, nodes: Sequence[Node]) -> list[Finding]:
    name = partition.name
    if partition.state != "UP":
        detail = f"partition {name} is {partition.state}: jobs there do not start"
        return [Finding(section, "partition", "problem", detail, "Wait for the administrators, or name another one.")]
    if not nodes:
        return [Finding(section, "partition", "problem", f"partition {name} has no nodes", "Name another one.")]
    dead = [node for node in nodes if not node.alive]
    if len(dead) == len(nodes):
        states = ", ".join(f"{node.name} {node.state}" for node in dead[:5])
        detail = f"no node of partition {name} takes jobs now ({states})"
        return [Finding(section, "partition", "problem", detail, "See why: sinfo -R. Or name another partition.")]
    if dead:
        detail = f"{len(dead)} of {len(nodes)} nodes of partition {name} take no jobs now"
        return [Finding(section, "partition", "note", detail, "See why: sinfo -R")]
    return []


def _check_time(section: str, place: RungPlace, partition: Partition) -> list[Finding]:
    if place.time_limit is None:
        if partition.default_time is None and partition.max_time is None:
            return []
        taken = partition.default_time or partition.max_time or 0
        fix = f"time_limit: {slurm_time(partition.max_time or taken)}"
        detail = f"no time_limit: partition {partition.name} gives a job {in_words(taken)}"
        return [Finding(section, "time", "note", detail, fix)]
    asked = parse_duration(place.time_limit)
    if partition.max_time is not None and asked > partition.max_time:
        detail = (
            f"time_limit {place.time_limit} is over the {in_words(partition.max_time)} of partition {partition.name}"
        )
        return [Finding(section, "time", "problem", detail, f"time_limit: {slurm_time(partition.max_time)}")]
    return []


def _check_gpus(
    section: str,
    place: RungPlace,
    partition: Partition,
    nodes: Sequence[Node],
    cluster: LiveCluster,
    rung: Rung | None,
) -> list[Finding]:
    asked = parse_gpus(place.gres)
    total = sum(asked.values())
    wanted = 0 if rung is None or rung.on_cpu else rung.count
    if total < wanted:
        kind = next(iter(asked), "") or next((kind for node in nodes for kind in node.gpus if kind), "")
        fix = f"gres: gpu:{kind + ':' if kind else ''}{wanted}"
        detail = f"asks for {total or 'no'} GPU{'s' if total > 1 else ''} a node, the rung needs {wanted}"
        return [Finding(section, "gres", "problem", detail, fix)]
    if place.gres and not asked:
        known = set(re.findall(r"\w+", cluster.settings.get("GresTypes", "")))
        name = place.gres.split(":")[0]
        if name not in known:
            hint = did_you_mean(name, known) if known else "This cluster has no GRES at all."
            return [Finding(section, "gres", "problem", f"no GRES '{name}' here", hint)]
    kinds = sorted({kind for node in nodes for kind in node.gpus})
    findings = []
    for kind, count in asked.items():
        where = f"partition {partition.name}"
        if not kinds:
            elsewhere = sorted({name for node in cluster.nodes if node.gpus for name in node.partitions})
            fix = f"GPUs are in: {', '.join(elsewhere)}" if elsewhere else "This cluster has no GPUs."
            findings.append(Finding(section, "gres", "problem", f"no GPUs in {where}", fix))
        elif kind and kind not in kinds:
            named = [name for name in kinds if name]
            fix = did_you_mean(kind, named) if named else f"Its GPUs have no type: gres: gpu:{count}"
            findings.append(Finding(section, "gres", "problem", f"no GPUs of type '{kind}' in {where}", fix))
        else:
            most = max((node.gpus.get(kind, 0) if kind else sum(node.gpus.values())) for node in nodes)
            if count > most:
                word = f"{kind} " if kind else ""
                detail = f"{count} {word}GPUs a node, but no node of {where} has more than {most}"
                fix = f"gres: gpu:{kind + ':' if kind else ''}{most}, or another partition"
                findings.append(Finding(section, "gres", "problem", detail, fix))
    return findings


def _check_features(section: str, place: RungPlace, partition: Partition, nodes: Sequence[Node]) -> list[Finding]:
    have = sorted({feature for node in nodes for feature in node.features})
    findings = []
    for feature in _features(place.constraint):
        if feature not in have:
            fix = did_you_mean(feature, have) if have else "Nodes there have no features: leave constraint out."
            detail = f"no node of partition {partition.name} has the feature '{feature}'"
            findings.append(Finding(section, "constraint", "problem", detail, fix))
    return findings


def _check_sizes(section: str, place: RungPlace, partition: Partition, nodes: Sequence[Node]) -> list[Finding]:
    if not nodes:
        return []
    findings = []
    where = f"partition {partition.name}"
    if place.memory is not None:
        most = max(node.memory for node in nodes)
        try:
            asked = mebibytes(place.memory)
        except ValueError as error:
            return [Finding(section, "memory", "problem", str(error), f"memory: {most}M or less")]
        if asked > most:
            detail = f"{place.memory} of memory, but the largest node of {where} has {most} MB"
            findings.append(Finding(section, "memory", "problem", detail, f"memory: {most}M or less"))
    cores = max(node.processors for node in nodes)
    if (place.cpus_per_task or 0) > cores:
        detail = f"{place.cpus_per_task} CPUs a task, but the largest node of {where} has {cores}"
        findings.append(Finding(section, "cpus", "problem", detail, f"cpus_per_task: {cores} or less"))
    return findings


def _check_together(
    section: str, place: RungPlace, partition: Partition, nodes: Sequence[Node], rung: Rung | None
) -> list[Finding]:
    """Each wish can be had; now all of them on one node, and on enough nodes."""
    needed = place.nodes or (rung.nodes if rung else 1)
    fitting = [node for node in nodes if _fits(node, place)]
    if len(fitting) >= needed or not nodes:
        return []
    if not fitting:
        detail = f"no single node of partition {partition.name} has all of this: {_wishes(place)}"
        return [Finding(section, "place", "problem", detail, "See its nodes: sinfo -N -o '%N %P %c %m %G %f'")]
    detail = f"{needed} nodes are asked for, partition {partition.name} has {len(fitting)} that would do"
    return [Finding(section, "nodes", "problem", detail, f"nodes: {len(fitting)}, or another partition")]


def _fits(node: Node, place: RungPlace) -> bool:
    gpus = all(
        (node.gpus.get(kind, 0) if kind else sum(node.gpus.values())) >= count
        for kind, count in parse_gpus(place.gres).items()
    )
    features = _features(place.constraint)
    # With `|` any of them will do; brackets and counts are left to Slurm.
    simple = not re.search(r"[|\[\](*!]", place.constraint or "")
    matched = all(feature in node.features for feature in features) if simple else True
    memory = place.memory is None or mebibytes(place.memory) <= node.memory
    return gpus and matched and memory and (place.cpus_per_task or 0) <= node.processors


def _features(constraint: str | None) -> list[str]:
    return re.findall(r"[A-Za-z_][\w.:-]*", re.sub(r"![\w.:-]+", "", constraint or ""))


def _wishes(place: RungPlace) -> str:
    parts = {
        "gres": place.gres,
        "constraint": place.constraint,
        "memory": place.memory,
        "cpus_per_task": place.cpus_per_task,
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


def _describe(place: RungPlace, partition: Partition, nodes: Sequence[Node]) -> str:
    fitting = sum(_fits(node, place) and node.alive for node in nodes)
    limit = "no time limit" if partition.max_time is None else f"at most {in_words(partition.max_time)}"
    wishes = _wishes(place)
    return f"partition {partition.name} ({limit}): {fitting} of {len(nodes)} nodes would do" + (
        f" for {wishes}" if wishes else ""
    )

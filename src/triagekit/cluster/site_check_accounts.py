"""Account and QOS of a site profile against the partition's lists and, where accounting answers, the user's own."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.live_cluster import LiveCluster
from triagekit.cluster.sites import SiteSettings
from triagekit.cluster.slurm_commands import run_slurm
from triagekit.errors import TriageError, did_you_mean

SECTION = "accounts"


@dataclass(frozen=True)
class Association:
    """A right to use an account, with the QOS it brings ("" for every partition)."""

    account: str
    partition: str
    qualities: frozenset[str]


def read_associations() -> list[Association] | None:
    """Those of the calling user by sacctmgr; None where the cluster keeps no accounts or does not answer."""
    words = ["sacctmgr", "--noheader", "--parsable2", "show", "associations"]
    try:
        text = run_slurm(
            *words, f"user={getpass.getuser()}", "format=account,partition,qos", timeout=20.0, patience=0.0
        )
    except TriageError:
        return None
    return parse_associations(text) or None


def parse_associations(text: str) -> list[Association]:
    """Lines `account|partition|qos,qos`."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") >= 2]
    return [Association(row[0], row[1], frozenset(name for name in row[2].split(",") if name)) for row in rows]


def check_accounts(
    site: SiteSettings, cluster: LiveCluster, associations: Sequence[Association] | None
) -> list[Finding]:
    """Findings about `account` and each place's `qos`."""
    findings = []
    asked = sorted({place.qos for name in site.rungs if (place := site.place(name)).qos})
    if site.account is not None:
        findings += _check_account(site.account, associations)
    elif "associations" in cluster.settings.get("AccountingStorageEnforce", "") and associations is not None:
        accounts = sorted({item.account for item in associations})
        detail = f"none named: jobs are billed to your default one of {', '.join(accounts)}"
        findings.append(Finding(SECTION, "account", "note", detail, f"account: {accounts[0]}"))
    if associations is not None:
        for quality in asked:
            mine = sorted({name for item in associations for name in item.qualities})
            if quality not in mine:
                detail = f"QOS '{quality}' is not yours"
                findings.append(Finding(SECTION, "qos", "problem", detail, did_you_mean(quality, mine)))
    elif asked:
        detail = f"{', '.join(asked)} not checked: sacctmgr does not answer here"
        findings.append(Finding(SECTION, "qos", "note", detail))
    for name in site.rungs:
        findings += _check_partition(name, site, cluster)
    return findings


def _check_account(account: str, associations: Sequence[Association] | None) -> list[Finding]:
    if associations is None:
        detail = f"{account} not checked: sacctmgr does not answer here"
        return [Finding(SECTION, "account", "note", detail)]
    mine = sorted({item.account for item in associations})
    if account in mine:
        return [Finding(SECTION, "account", "ok", f"{account} is yours")]
    return [Finding(SECTION, "account", "problem", f"account '{account}' is not yours", did_you_mean(account, mine))]


def _check_partition(rung: str, site: SiteSettings, cluster: LiveCluster) -> list[Finding]:
    place = site.place(rung)
    partition = cluster.partitions.get(place.partition or "")
    if partition is None:
        return []
    findings = []
    if partition.accounts is not None and site.account not in partition.accounts:
        allowed = sorted(partition.accounts)
        detail = f"partition {partition.name} takes only the accounts {', '.join(allowed)}"
        fix = did_you_mean(site.account or "", allowed)
        findings.append(Finding(f"rung {rung}", "account", "problem", detail, fix))
    if place.qos and partition.qualities is not None and place.qos not in partition.qualities:
        allowed = sorted(partition.qualities)
        detail = f"partition {partition.name} takes only the QOS {', '.join(allowed)}"
        findings.append(Finding(f"rung {rung}", "qos", "problem", detail, did_you_mean(place.qos, allowed)))
    return findings

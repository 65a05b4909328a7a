"""All checks of `triage doctor`, in the order of the page."""

from __future__ import annotations

import os
import shutil

from triagekit.cluster.doctor.finding import Finding
from triagekit.cluster.doctor.folders import check_folders, expand
from triagekit.cluster.doctor.graphics import check_devices, check_driver, read_driver
from triagekit.cluster.doctor.libraries import check_bitsandbytes, check_deepspeed, check_torch
from triagekit.cluster.doctor.offline import check_offline
from triagekit.cluster.doctor.packages import check_packages, check_python, find_package
from triagekit.cluster.doctor.slurm import check_slurm
from triagekit.cluster.doctor.trials import Trials
from triagekit.cluster.sites import SiteSettings
from triagekit.hardware.devices import detect_devices

TRIED = ("torch", "bitsandbytes", "deepspeed")


def examine(base: str = "embedded", site: SiteSettings | None = None) -> list[Finding]:
    """Every finding about this machine; `base` and `site` are what it is to be used for.

    Takes as long as importing torch in a child process does, and seconds where torch is not installed.
    """
    versions = {name: package.version for name in TRIED if (package := find_package(name))}
    # Without torch the other two cannot be tried; the packages section names it as missing.
    trials = Trials([name for name in TRIED if name in versions] if "torch" in versions else [])
    driver, devices = read_driver(), detect_devices()
    scratch = expand(site.scratch) if site and site.scratch else None
    cache = expand(site.cache) if site and site.cache else f"{scratch}/huggingface" if scratch else None
    on_cluster = site is not None or shutil.which("scontrol") is not None or "SLURM_JOB_ID" in os.environ
    machine = [
        *check_slurm(),
        *check_folders(on_cluster, scratch, cache),
        *check_offline(base, cache, site.offline if site else False),
    ]
    findings = [*check_python(), *check_packages(), *check_driver(driver, devices), *check_devices(devices)]
    answers = trials.results()
    if "torch" in answers:
        findings.extend(check_torch(answers["torch"], versions["torch"], devices, driver))
        if "bitsandbytes" in answers:
            findings.extend(check_bitsandbytes(answers["bitsandbytes"], versions["bitsandbytes"]))
        findings.extend(check_deepspeed(answers.get("deepspeed"), versions.get("deepspeed")))
    return findings + machine

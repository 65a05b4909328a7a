"""The real Slurm that the tests marked `cluster` run on (one a session, put in order again after each test), and a
stand-in for its commands."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from mini_slurm import MiniSlurm
from mini_slurm_files import why_not_here

from triagekit.cluster import slurm_commands

REQUIRE = "TRIAGEKIT_REQUIRE_SLURM"


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[MiniSlurm]:
    """The cluster of this session. Use `slurm`, which also cleans up after each test."""
    reason = why_not_here()
    if reason is not None:
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{REQUIRE}=1, but no Slurm can be started: {reason}")
        pytest.skip(reason)
    with MiniSlurm() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: MiniSlurm, request: pytest.FixtureRequest) -> Iterator[MiniSlurm]:
    """The cluster, empty and with all its nodes up, as the test found it so the next one will."""
    yield slurm_cluster
    report = getattr(request.node, "call_report", None)
    if report is not None and report.failed:
        queue = slurm_cluster.run("squeue", "-a") if "slurmctld" in slurm_cluster.running else "no controller"
        report.sections.append(("Slurm", f"{queue}\n{slurm_cluster.logs()}"))
    put_in_order(slurm_cluster)


@pytest.fixture
def slurm_here(slurm: MiniSlurm, monkeypatch: pytest.MonkeyPatch) -> MiniSlurm:
    """The cluster, as the one this very process is a user of: for code called in the test itself."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    return slurm


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep the result of the test itself, for the cluster's logs to be added to it."""
    report = yield
    if report.when == "call":
        item.call_report = report
    return report


def put_in_order(cluster: MiniSlurm) -> None:
    """No jobs, all daemons running, all partitions up."""
    if "slurmctld" not in cluster.running:
        cluster.start_controller()
    jobs = cluster.run("squeue", "-h", "-a", "-o", "%A").split()
    if jobs:
        cluster.run("scancel", "--full", "-s", "KILL", *set(jobs))
        cluster.run("scancel", *set(jobs))
    for node in cluster.nodes:
        cluster.up(node)
    for partition in cluster.run("sinfo", "-h", "-a", "-o", "%R").split():
        cluster.run("scontrol", "update", f"partition={partition}", "state=UP", "GraceTime=0")
    until = time.monotonic() + 60
    while cluster.run("squeue", "-h", "-a", "-o", "%A").split():
        if time.monotonic() > until:
            raise RuntimeError(f"jobs do not end:\n{cluster.run('squeue', '-a')}\n{cluster.logs()}")
        time.sleep(0.1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A project folder and a Slurm that gives the job numbers 11, 12, …"""
    fake = FakeSlurm(tmp_path / "slurm")
    fake.answers("sbatch", *((f"{number}\n", "", 0) for number in range(11, 30)))
    fake.answers("scontrol", ("MaxArraySize            = 1001\n", "", 0))
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_commands.time, "sleep", lambda seconds: None)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return fake

"""`triage site check` and the Slurm section of `triage doctor` against a real Slurm."""

from __future__ import annotations

import json

import pytest

from triagekit.cli.main import main
from triagekit.cluster.doctor.slurm import check_slurm
from triagekit.cluster.live_cluster import read_cluster
from triagekit.cluster.site_check import check_site
from triagekit.cluster.sites import load_site

pytestmark = pytest.mark.cluster


def problems(*overrides, name="test"):
    findings = check_site(load_site(name, overrides))
    return {(item.section, item.name): item.fix for item in findings if item.status == "problem"}


def test_the_cluster_is_read_as_it_is(slurm_here):
    cluster = read_cluster()
    assert cluster.settings["ClusterName"] and cluster.version[0].isdigit() and cluster.sends_user_signal
    assert {"cpu", "gpuA", "gpuAhi", "gpuS"} <= set(cluster.partitions)
    nodes = {node.name: node for node in cluster.nodes}
    assert (
        nodes["a1"].gpus == nodes["a2"].gpus == {"a100": 2} and nodes["s1"].gpus == {"t4": 1} and not nodes["c1"].gpus
    )
    assert all(node.alive for node in nodes.values())
    assert cluster.preempted_in("gpuA") and not cluster.preempted_in("gpuAhi") and not cluster.preempted_in("gpuS")


def test_the_shipped_profile_passes(slurm_here, capsys):
    assert problems() == {}
    assert main(["site", "check", "test", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] and {"rung 2xA100", "rung cpu"} <= {item["section"] for item in answer["findings"]}


def test_a_profile_full_of_mistakes_gives_exactly_these(slurm_here, capsys, tmp_path):
    profile = tmp_path / "wrong.yaml"
    profile.write_text(
        "name: wrong\n"
        "rungs:\n"
        "  2xA100: {partition: gpuAA, gres: 'gpu:a100:2'}\n"
        "  1xA100: {partition: gpuA, gres: 'gpu:a10:1', constraint: a10, memory: 64G, cpus_per_task: 64}\n"
        "  16GB-T4: {partition: gpuS, gres: 'gpu:t4:2'}\n"
        "  cpu: {partition: cpu, time_limit: 1m}\n"
        "modules: []\n"
        "python: /no/such/python\n"
    )
    assert main(["site", "check", str(profile), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    found = {(item["section"], item["name"]) for item in answer["findings"] if item["status"] == "problem"}
    assert found == {
        ("rung 2xA100", "partition"),
        ("rung 1xA100", "gres"),
        ("rung 1xA100", "constraint"),
        ("rung 1xA100", "memory"),
        ("rung 1xA100", "cpus"),
        ("rung 16GB-T4", "gres"),
        ("rung cpu", "signal"),
        ("here", "python"),
    }
    assert all(item["fix"] for item in answer["findings"] if item["status"] == "problem")
    assert main(["site", "check", str(profile)]) == 1
    page = capsys.readouterr().out
    assert "Did you mean 'gpuA'?" in page and "Did you mean 'a100'?" in page and "8 problems" in page


def test_what_an_administrator_changes_is_seen(slurm_here):
    assert problems("rungs.cpu.time_limit=2h") == {}
    try:
        slurm_here.run("scontrol", "update", "partition=cpu", "MaxTime=60")
        assert problems("rungs.cpu.time_limit=2h")[("rung cpu", "time")] == "time_limit: 01:00:00"
    finally:
        slurm_here.run("scontrol", "update", "partition=cpu", "MaxTime=UNLIMITED")
    slurm_here.run("scontrol", "update", "partition=gpuS", "state=DOWN")
    assert set(problems()) == {("rung 16GB-T4", "partition")}


def test_a_partition_whose_nodes_are_all_gone_is_a_problem_and_half_of_them_a_note(slurm_here):
    slurm_here.down("s1", announce=True)
    slurm_here.down("a2", announce=True)
    assert set(problems()) == {("rung 16GB-T4", "partition")}
    notes = {item.section: item.detail for item in check_site(load_site("test")) if item.name == "partition"}
    assert notes["rung 2xA100"].startswith("1 of 2 nodes of partition gpuA take no jobs now")


def test_doctor_tells_the_settings_that_matter(slurm_here):
    findings = {finding.name: finding for finding in check_slurm()}
    assert not [item for item in findings.values() if item.status == "problem"]
    assert "gpuA (2 nodes" in findings["partitions"].detail
    assert "jobs in gpuA can be preempted" in findings["preemption"].detail
    assert {"version", "JobRequeue", "EnforcePartLimits", "MaxArraySize", "KillWait", "accounting"} <= set(findings)


def test_without_a_controller_doctor_says_so_and_the_check_is_refused(slurm_here, monkeypatch, capsys):
    monkeypatch.setattr("triagekit.cluster.live_cluster._PATIENCE", 0.0)
    slurm_here.stop_controller()
    findings = check_slurm()
    assert [(item.name, item.status) for item in findings] == [("controller", "problem")] and findings[0].fix
    assert main(["site", "check", "test"]) == 2
    assert "Slurm refused" in capsys.readouterr().err

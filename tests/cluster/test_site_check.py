"""`triage site check` on a cluster of paper: a good profile passes, each mistake gives its one problem with a fix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from site_check_cluster import node, paper_cluster, partition

from triagekit.cluster.live_cluster import mebibytes, parse_gpus, seconds
from triagekit.cluster.site_check import check_site
from triagekit.cluster.site_check_accounts import check_accounts, parse_associations
from triagekit.cluster.site_check_node import available_modules, check_folder, check_modules, check_node
from triagekit.cluster.sites import SiteSettings

RUNGS = {
    "2xA100": {"partition": "a100", "gres": "gpu:a100:2", "time_limit": "2d", "memory": "200G", "cpus_per_task": 16},
    "1xA100": {"partition": "a100", "gres": "gpu:1", "constraint": "a100_80g|a100_40g"},
    "cpu": {"partition": "cpu", "time_limit": "1d"},
}


@pytest.fixture(autouse=True)
def no_accounts(monkeypatch):
    """This machine may have a Slurm of its own; the cluster of paper must not be asked about it."""
    monkeypatch.setattr("triagekit.cluster.site_check.read_associations", lambda: None)


def site(rungs=None, **other):
    return SiteSettings.model_validate({"name": "paper", "rungs": rungs or RUNGS} | other)


def problems(findings, status="problem"):
    return [(finding.section, finding.name) for finding in findings if finding.status == status]


def fixes(findings):
    return [finding.fix for finding in findings if finding.status == "problem"]


def changed(rung, **values):
    return RUNGS | {rung: RUNGS[rung] | values}


def test_a_profile_that_fits_has_no_problem():
    findings = check_site(site(), paper_cluster())
    assert problems(findings) == []
    places = {finding.section: finding.detail for finding in findings if finding.name == "place"}
    assert set(places) == {"rung 2xA100", "rung 1xA100", "rung cpu"}
    assert "2 of 2 nodes would do" in places["rung 2xA100"]
    # c2 is draining: it belongs to the partition but takes no jobs.
    assert "1 of 2 nodes would do" in places["rung cpu"]
    assert ("rung cpu", "partition") in problems(findings, "note")


@pytest.mark.parametrize(
    ("rung", "values", "found", "fix"),
    [
        ("cpu", {"partition": "cpus"}, "partition", "Did you mean 'cpu'?"),
        ("cpu", {"partition": "cpu,spare"}, "partition", "Valid: cpu, a100, urgent, old."),
        ("2xA100", {"gres": "gpu:a1000:2"}, "gres", "Did you mean 'a100'?"),
        ("2xA100", {"gres": "gpu:a100:8"}, "gres", "gres: gpu:a100:4, or another partition"),
        ("2xA100", {"gres": "gpu:a100:1"}, "gres", "gres: gpu:a100:2"),
        ("2xA100", {"gres": None}, "gres", "gres: gpu:a100:2"),
        ("1xA100", {"gres": "gpus:1"}, "gres", "gres: gpu:a100:1"),
        ("cpu", {"gres": "gpu:1"}, "gres", "GPUs are in: a100, old, urgent"),
        ("cpu", {"gres": "fpga:1"}, "gres", "Valid: gpu."),
        ("1xA100", {"constraint": "a100_80gb"}, "constraint", "Did you mean 'a100_80g'?"),
        ("cpu", {"constraint": "skylake"}, "constraint", "Nodes there have no features: leave constraint out."),
        ("2xA100", {"time_limit": "5d"}, "time", "time_limit: 4-00:00:00"),
        ("cpu", {"memory": "600G"}, "memory", "memory: 512000M or less"),
        ("cpu", {"memory": "lots"}, "memory", "memory: 512000M or less"),
        ("cpu", {"cpus_per_task": 33}, "cpus", "cpus_per_task: 32 or less"),
        ("cpu", {"nodes": 3}, "nodes", "nodes: 2, or another partition"),
        ("cpu", {"time_limit": "2m"}, "signal", "A longer time_limit, or less signal_seconds."),
        # Four GPUs are only in g1, and 600 GB only in g2.
        ("2xA100", {"gres": "gpu:4", "memory": "600G"}, "place", "See its nodes: sinfo -N -o '%N %P %c %m %G %f'"),
        ("2xA100", {"constraint": "a100_40g&infiniband"}, "place", "See its nodes: sinfo -N -o '%N %P %c %m %G %f'"),
    ],
)
def test_one_mistake_gives_its_one_problem(rung, values, found, fix):
    findings = check_site(site(changed(rung, **values)), paper_cluster())
    assert problems(findings) == [(f"rung {rung}", found)]
    assert fixes(findings) == [fix]


def test_all_mistakes_come_at_once():
    rungs = changed("2xA100", gres="gpu:a100:8", constraint="nvlink", time_limit="30d", memory="2T", cpus_per_task=99)
    broken = site(
        rungs | {"4xA100": {"partition": "a1000"}}, jobs={"score": {"partition": "gone"}}, max_array_tasks=5000
    )
    findings = check_site(broken, paper_cluster())
    assert problems(findings) == [
        ("rung 2xA100", "time"),
        ("rung 2xA100", "gres"),
        ("rung 2xA100", "constraint"),
        ("rung 2xA100", "memory"),
        ("rung 2xA100", "cpus"),
        ("rung 4xA100", "ladder"),
        ("rung 4xA100", "partition"),
        ("job score", "partition"),
        ("site", "arrays"),
    ]
    assert all(fixes(findings))


def test_a_partition_in_the_wrong_case_does_not_hide_the_other_mistakes():
    findings = check_site(site(changed("2xA100", partition="A100", memory="9T")), paper_cluster())
    assert problems(findings) == [("rung 2xA100", "partition"), ("rung 2xA100", "memory")]


def test_partitions_that_are_down_or_empty_or_dead_are_problems():
    cluster = paper_cluster(
        partitions=partition("closed", "x1", 1, state="DRAIN") + partition("empty", "", 0) + partition("dead", "y1", 1),
        nodes=node("x1", "closed") + node("y1", "dead", state="DOWN*"),
    )
    rungs = {name: {"partition": name} for name in ("closed", "empty", "dead")}
    ladder = {"add": [{"name": name, "count": 0, "memory_gb": 1, "precision": "fp32"} for name in rungs]}
    findings = check_site(site(rungs, ladder_overrides=ladder), cluster)
    assert problems(findings) == [(f"rung {name}", "partition") for name in rungs]
    details = [finding.detail for finding in findings if finding.status == "problem"]
    assert "is DRAIN" in details[0] and "no nodes" in details[1] and "y1 DOWN*" in details[2]


def test_a_rung_without_partition_goes_to_the_default_one_if_there_is_one():
    rungs = RUNGS | {"cpu": {"memory": "1T"}}
    assert problems(check_site(site(rungs), paper_cluster())) == [("rung cpu", "memory")]
    bare = paper_cluster()
    bare.partitions.pop("cpu")
    assert problems(check_site(site({"cpu": {}}), bare)) == [("rung cpu", "partition")]


def test_a_wrong_ladder_is_a_problem_of_the_site():
    findings = check_site(site(ladder_overrides={"rungs": {"2xA10": {"micro_batch": 8}}}), paper_cluster())
    assert ("site", "ladder") in problems(findings)


def test_what_preemption_means_for_a_place():
    def of(config, mode="REQUEUE", requeue="requeue", grace=60):
        cluster = paper_cluster(config, partition("scavenge", "g[1-2]", 2, tier=1, mode=mode, grace=grace), "")
        cluster = replace(
            cluster, nodes=[replace(item, partitions=item.partitions | {"scavenge"}) for item in cluster.nodes]
        )
        found = check_site(site({"2xA100": RUNGS["2xA100"] | {"partition": "scavenge"}}, requeue=requeue), cluster)
        return [(item.name, item.status) for item in found if item.name in {"preemption", "requeue"}]

    assert of({}) == [("preemption", "ok")]
    assert of({}, grace=0) == [("preemption", "note")]
    assert of({"SlurmctldParameters": "(null)"}) == [("preemption", "note")]
    assert of({}, mode="CANCEL") == [("preemption", "problem")]
    assert of({}, mode="CANCEL", requeue="successor") == [("preemption", "ok")]
    assert of({}, mode="OFF") == []
    assert of({"PreemptType": "preempt/none"}) == []
    assert of({"PreemptType": "preempt/none", "JobRequeue": "0"}) == [("requeue", "note")]
    assert of({"PreemptType": "preempt/none", "JobRequeue": "0"}, requeue="successor") == []


def test_accounts_and_qos_against_what_is_the_users():
    mine = parse_associations("physics||normal,long\nphysics|a100|urgent\nteaching||normal\n")
    good = site(changed("cpu", qos="long"), account="physics")
    assert problems(check_accounts(good, paper_cluster(), mine)) == []
    wrong = site(changed("cpu", qos="lon"), account="physic")
    findings = check_accounts(wrong, paper_cluster(), mine)
    assert problems(findings) == [("accounts", "account"), ("accounts", "qos")]
    assert fixes(findings) == ["Did you mean 'physics'?", "Did you mean 'long'?"]
    # Without accounting nothing can be said, and that is said.
    assert problems(check_accounts(wrong, paper_cluster(), None)) == []
    assert (
        problems(check_accounts(wrong, paper_cluster(), None), "note")
        == [("accounts", "qos"), ("accounts", "account")][::-1]
    )
    assert problems(check_accounts(site(), paper_cluster(), mine), "note") == [("accounts", "account")]


def test_a_partition_that_takes_only_some_accounts_and_qos():
    rungs = changed("2xA100", partition="urgent", qos="normal")
    findings = check_accounts(site(rungs, account="physics"), paper_cluster(), None)
    assert problems(findings) == [("rung 2xA100", "account"), ("rung 2xA100", "qos")]
    rungs = changed("2xA100", partition="urgent", qos="urgent")
    assert problems(check_accounts(site(rungs, account="police"), paper_cluster(), None)) == []


def test_folders_with_variables_missing_ones_and_such_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH_HERE", str(tmp_path))
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    there = check_folder("scratch", "${SCRATCH_HERE:-/nowhere}")
    assert there.status == "ok" and str(tmp_path) in there.detail
    assert check_folder("scratch", "$SCRATCH_HERE/new/deep").status == "ok"
    fallback = check_folder("scratch", f"${{NO_SUCH_VARIABLE:-{tmp_path}/$USER}}")
    assert fallback.status == "ok" and "$" not in fallback.detail
    assert check_folder("scratch", "/data/$NO_SUCH_VARIABLE").status == "note"
    (tmp_path / "file").write_text("")
    assert check_folder("cache", str(tmp_path / "file")).status == "problem"
    assert check_folder("cache", str(tmp_path / "file" / "inside")).status == "problem"


def test_interpreter_and_temporary_folder(tmp_path):
    missing = check_node(site(python=str(tmp_path / "bin" / "python"), temporary="/tmp/" + "x" * 60))
    assert problems(missing) == [("here", "python"), ("here", "temporary")]
    assert problems(check_node(site(python="python", before=["source env"]))) == []
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\n")
    assert problems(check_node(site(python=str(program)))) == [("here", "python")]
    program.chmod(0o755)
    assert problems(check_node(site(python=str(program)))) == []


def test_modules_are_those_of_a_login_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BASH_ENV", "")
    (tmp_path / ".bash_profile").write_text("")
    if available_modules() is None:
        assert problems(check_modules(["cuda"], None)) == [("here", "modules")]
    (tmp_path / ".bash_profile").write_text(
        "module() { printf '/opt/modules:\\ncuda/12.4(default)\\ncuda/13.0\\npython/\\npython/3.12\\n' >&2; }\n"
    )
    names = available_modules()
    assert names == ["cuda/12.4", "cuda/13.0", "python/3.12"]
    assert problems(check_modules(["cuda", "cuda/13.0", "python/3.12"], names)) == []
    assert fixes(check_modules(["cuda/14.0", "pyton"], names)) == [
        "Did you mean 'cuda/13.0'?",
        "Did you mean 'python'?",
    ]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("gpu:a100:2(S:0-1),gpu:t4:1", {"a100": 2, "t4": 1}),
        ("gpu:2", {"": 2}),
        ("gpu", {"": 1}),
        ("gpu:H100", {"h100": 1}),
        ("gpu:a100:no_consume:4", {"a100": 4}),
        ("(null)", {}),
        ("shard:8,craynetwork:4", {}),
    ],
)
def test_gres_as_slurm_writes_it(text, counts):
    assert parse_gpus(text) == counts


def test_sizes_and_times_as_slurm_writes_them():
    assert [mebibytes(text) for text in ("8000", "64G", "1.5T", "512K", "100m")] == [8000, 65536, 1572864, 0, 100]
    assert [seconds(text) for text in ("UNLIMITED", "NONE", None, "2-12:00:00", "01:30:00")] == [None] * 3 + [
        216000,
        5400,
    ]
    with pytest.raises(ValueError, match="no memory size"):
        mebibytes("big")


def test_user_names_are_known_even_where_the_variable_is_not(monkeypatch):
    from triagekit.cluster.doctor.folders import expand

    monkeypatch.delenv("USER", raising=False)
    assert "$" not in expand("/scratch/$USER")
    assert expand("~/x") == str(Path("~/x").expanduser())

"""Where nodes meet, from Slurm's variables alone; nothing missing is guessed."""

from __future__ import annotations

import pytest

from triagekit.errors import TriageError
from triagekit.launching.rendezvous import FIRST_PORT, PORTS, from_slurm, is_first_node, nodes_here, nodes_left_out

STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "1234",
    "SLURM_NNODES": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "a[1-2]",
}


def test_both_nodes_name_the_same_place(scontrol):
    asked = scontrol("a1", "a2")
    first, second = from_slurm({**STEP, "SLURM_NODEID": "0"}), from_slurm(STEP)
    assert asked.read_text(encoding="utf-8").split() == ["show", "hostnames", "a[1-2]"]
    assert (first.node_rank, second.node_rank) == (0, 1)
    assert (first.node_name, second.node_name) == ("a1", "a2")
    for key in ("nodes", "master_address", "master_port", "run_id"):
        assert getattr(first, key) == getattr(second, key)
    assert (first.nodes, first.master_address) == (2, "a1")


def test_port_and_id_are_the_jobs_own_and_change_with_a_restart(scontrol):
    scontrol("a1", "a2")
    one = from_slurm(STEP)
    others = [from_slurm({**STEP, "SLURM_JOB_ID": "1235"}), from_slurm({**STEP, "SLURM_RESTART_COUNT": "1"})]
    assert len({place.master_port for place in (one, *others)}) == 3
    assert len({place.run_id for place in (one, *others)}) == 3
    for job in range(0, 10**7, 99991):
        port = from_slurm({**STEP, "SLURM_JOB_ID": str(job)}).master_port if job < 3 * 99991 else one.master_port
        assert FIRST_PORT <= port < FIRST_PORT + PORTS


def test_the_steps_own_node_list_is_taken_where_there_is_one(scontrol):
    asked = scontrol("a2", "a3")
    from_slurm({**STEP, "SLURM_STEP_NODELIST": "a[2-3]", "SLURM_JOB_NODELIST": "a[1-4]"})
    assert asked.read_text(encoding="utf-8").split()[-1] == "a[2-3]"


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "1", "SLURM_NNODES": "2"}])
def test_outside_a_step_there_is_no_place(environment):
    assert from_slurm(environment) is None
    assert nodes_here(environment) == 1


def test_a_step_of_one_node_needs_no_place():
    one = {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}
    assert from_slurm(one) is None
    assert nodes_here(one) == 1
    assert nodes_here(STEP) == 2


def test_one_node_of_a_step_talks():
    assert [is_first_node({**STEP, "SLURM_NODEID": str(node)}) for node in range(2)] == [True, False]
    assert is_first_node({"SLURM_NODEID": "1"}) and is_first_node({})


def test_every_missing_variable_is_named_at_once():
    with pytest.raises(TriageError) as raised:
        from_slurm({"SLURM_STEP_ID": "0", "SLURM_NNODES": "2"})
    for name in ("SLURM_JOB_ID", "SLURM_NODEID", "SLURM_JOB_NODELIST"):
        assert name in str(raised.value)


def test_several_tasks_a_node_are_refused():
    with pytest.raises(TriageError, match="--ntasks-per-node=1"):
        from_slurm({**STEP, "SLURM_STEP_NUM_TASKS": "4"})
    with pytest.raises(TriageError, match="2 tasks on 1 node,"):
        from_slurm({**STEP, "SLURM_STEP_NUM_NODES": "1"})


def test_scontrol_that_fails_is_no_localhost(scontrol, monkeypatch, tmp_path):
    scontrol(code=1, error="Invalid hostlist: a[1-")
    with pytest.raises(TriageError, match=r"Invalid hostlist: a\[1-"):
        from_slurm(STEP)
    scontrol("a1")
    with pytest.raises(TriageError, match="names 1 nodes"):
        from_slurm(STEP)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(TriageError, match="no scontrol in PATH"):
        from_slurm(STEP)


def test_a_forgotten_srun_is_noticed():
    assert nodes_left_out({"SLURM_JOB_ID": "1", "SLURM_NNODES": "2"}) == 1
    assert nodes_left_out(STEP) == nodes_left_out({}) == nodes_left_out({"SLURM_NNODES": "1"}) == 0

"""The words and the environment that the ranks are started with."""

from __future__ import annotations

import argparse
import json
import os

import pytest

from triagekit.cli.commands import train
from triagekit.cli.intermixed import IntermixedParser
from triagekit.errors import TriageError
from triagekit.hardware.devices import parse_devices
from triagekit.hardware.ladder import Rung
from triagekit.launching.command import agent_environment, agent_words
from triagekit.launching.rendezvous import Rendezvous
from triagekit.launching.rung_in_force import RungInForce, visible_cards
from triagekit.training.ranks import RUNG, ranks_from_environment

TWO = Rung.model_validate(
    {"name": "two", "count": 2, "memory_gb": 40, "launcher": "2gpu_ddp", "sharding": "ddp", "capability": 8.0}
)
FOUR = TWO.model_copy(update={"nodes": 2, "launcher": "2nodes_ddp"})
PLACE = Rendezvous(2, 1, "a1", 15042, "triage-7-0", "a2")


def after(words, name):
    return words[words.index(name) + 1]


def test_one_node_meets_on_a_port_of_the_kernels_choice():
    words = agent_words(TWO, None, "triagekit", ["train", "lora"])
    assert after(words, "--num_processes") == "2" and after(words, "--num_machines") == "1"
    assert after(words, "--config_file").endswith("configs/accelerate/2gpu_ddp.yaml")
    assert agent_environment(TWO, None, {})["PET_STANDALONE"] == "1"


def test_several_nodes_meet_by_c10d_at_the_first_one():
    words = agent_words(FOUR, PLACE, "triagekit", ["train", "lora"])
    assert after(words, "--num_processes") == "4" and after(words, "--num_machines") == "2"
    assert after(words, "--machine_rank") == "1" and after(words, "--main_process_ip") == "a1"
    assert after(words, "--rdzv_backend") == "c10d" and "is_host=0" in after(words, "--rdzv_conf")
    environment = agent_environment(FOUR, PLACE, {})
    assert environment["PET_RDZV_ID"] == "triage-7-0" and environment["PET_RDZV_ENDPOINT"] == "a1:15042"
    assert environment["PET_LOCAL_ADDR"] == "a2" and "PET_STANDALONE" not in environment


def test_what_torch_would_fill_in_is_protected():
    words = agent_words(TWO, None, "triagekit", ["train", "a=$$x", "b=${local_rank}"])
    assert words[-2:] == ["a=$$$$x", "b=$${local_rank}"]


def test_threads_are_shared_by_the_processes_of_a_node(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(9)))
    assert agent_environment(TWO, None, {})["OMP_NUM_THREADS"] == "4"
    assert agent_environment(FOUR, PLACE, {})["OMP_NUM_THREADS"] == "4"
    assert agent_environment(TWO, None, {"OMP_NUM_THREADS": "1"})["OMP_NUM_THREADS"] == "1"
    assert agent_environment(TWO, None, {"SLURM_CPUS_ON_NODE": "4"})["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert agent_environment(TWO, None, {})["OMP_NUM_THREADS"] == "1"


def test_a_launcher_config_that_is_not_there_is_named():
    with pytest.raises(TriageError, match="2gpu_ddp"):
        agent_words(TWO.model_copy(update={"launcher": "2gpu_dpp"}), None, "triagekit", [])


def test_the_rung_reaches_the_ranks_whole_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.delenv(RUNG, raising=False)
    force = RungInForce(TWO.model_copy(update={"count": 1, "sharding": "none", "launcher": "none"}), ("2x: no GPU",))
    with force.in_this_process():
        ranks = ranks_from_environment()
        assert ranks.rung == force.rung and ranks.passed_over == ("2x: no GPU",)
    assert ranks_from_environment().rung is None
    monkeypatch.setenv(RUNG, json.dumps({"rung": "x"}))
    with pytest.raises(TriageError, match=RUNG):
        ranks_from_environment()


def test_going_down_tells_why():
    one = TWO.model_copy(update={"name": "one"})
    force = RungInForce(TWO, ("big: no",), (one,)).below("out of memory")
    assert force.rung.name == "one" and force.passed_over == ("big: no", "two: out of memory")
    assert force.below("again") is None


@pytest.mark.parametrize(
    "given",
    [
        ["lora", "a={x: [1, 2]}", "b= 'c d'", "--name=-odd name-", "--rung", "2xA100"],
        ["--offline", "my config.yaml", "a=$$b"],
        ["lora", "--json", "--name=a=b", "x.y=-1"],
    ],
)
def test_a_rank_reads_the_very_same_settings(given):
    def parse(words):
        parser = IntermixedParser()
        parser.add_argument("--offline", action="store_true")
        train.configure(parser)
        return parser.parse_args(words)

    asked = parse(given)
    overrides = [*asked.overrides, f"hardware.rung={asked.rung}"] if asked.rung else asked.overrides
    words = train._rank_words(asked, overrides)
    read = parse(words[1:])
    assert words[0] == "train" and isinstance(read, argparse.Namespace)
    assert (read.config, read.overrides, read.name, read.offline) == (
        asked.config,
        overrides,
        asked.name,
        asked.offline,
    )
    assert not read.json and read.rung is None


ONE = TWO.model_copy(update={"count": 1, "sharding": "none", "launcher": "none"})


@pytest.mark.parametrize(
    ("rung", "cards", "given", "seen"),
    [
        (TWO, "2xA100-80GB", None, None),
        (ONE, "1xA100-80GB", "3", None),
        (ONE, "2xA100-80GB", None, "0"),
        (ONE, "2xA100-80GB", "5, 7", "5"),
        (ONE, "T4,A100-80GB", None, "1"),
        (ONE, "T4,A100-80GB", "GPU-a,GPU-b", "GPU-b"),
        (TWO, "A100-80GB,T4,A100-80GB", None, "0,2"),
        (ONE, "T4,T4", None, None),
        (TWO.model_copy(update={"device": "cpu"}), "2xA100-80GB,T4", None, None),
    ],
)
def test_processes_see_only_the_cards_of_their_rung(rung, cards, given, seen):
    changes = visible_cards(rung, parse_devices(cards), {} if given is None else {"CUDA_VISIBLE_DEVICES": given})
    assert changes.get("CUDA_VISIBLE_DEVICES") == seen
    assert ("CUDA_DEVICE_ORDER" in changes) == (seen is not None and given is None)


def test_the_choice_of_cards_ends_with_the_run(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with RungInForce(ONE, (), (), parse_devices("2xA100-80GB")).in_this_process():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"

"""Two real processes over gloo train what one trains: the same rows, losses and adapter; killed, told to stop, moved."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from distributed_helpers import (
    LOSS_TOLERANCE,
    WEIGHT_TOLERANCE,
    ForkedRanks,
    differences,
    nothing_left_whole,
    run_in_ranks,
)
from training_helpers import adapter_bytes, metric_lines, run_in_a_process

from triagekit.settings import to_yaml
from triagekit.training.checkpoints import all_checkpoints
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

# 41 rows in steps of 8: the last step of an epoch has one row, fewer than there are processes. Five validation
# batches: an odd number.
UNEVEN = {
    "batch": {"effective": 8, "micro": 2, "eval": 3},
    "max_train_rows": 41,
    "epochs": 2,
    "log_every_steps": 1,
    "checkpoints": {"every_steps": 1, "keep": 30},
    "evaluation": {"every_share": 0.5},
    "hardware": {"rung": "none"},
}
STEPS = 12


@pytest.fixture(scope="module")
def make(tiny_model_folder, processed, tmp_path_factory):
    root = tmp_path_factory.mktemp("distributed")

    def settings(name, **changes):
        values = {
            "name": name,
            "base": str(tiny_model_folder),
            "data": str(processed),
            "output": str(root / "runs"),
            "seed": 3,
            "prompt": {"strategy": "implicit", "max_length": 256},
            "adapter": {"method": "lora", "r": 4, "alpha": 8, "dropout": 0.0},
            "precision": "fp32",
            "optimizer": {"learning_rate": 5e-3},
            **UNEVEN,
        }
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        return TrainSettings.model_validate(values)

    return settings


def alone(settings):
    assert run_in_a_process(settings, deadline=300) == 0
    return RunFolder(f"{settings.output}/{settings.name}")


def log_of(settings):
    return f"{settings.output}-{settings.name}.log"


@pytest.fixture(scope="module")
def one(make):
    return alone(make("one"))


@pytest.fixture(scope="module")
def ddp(make):
    settings = make("ddp")
    return run_in_ranks(settings, log_of(settings))


@pytest.fixture(scope="module")
def zero2(make):
    settings = make("zero2")
    return run_in_ranks(settings, log_of(settings), sharding="zero2")


@pytest.mark.parametrize("how", ["ddp", "zero2"])
def test_two_processes_train_what_one_trains(request, one, how):
    run = request.getfixturevalue(how)
    loss, weight = differences(run, one)
    assert loss <= LOSS_TOLERANCE and weight <= WEIGHT_TOLERANCE
    by_field = [
        [{name: value for name, value in line.items() if "/" in name} for line in metric_lines(each.folder)]
        for each in (run, one)
    ]
    assert by_field[0] == by_field[1] and "value_accuracy/category" in by_field[0][-1]
    ours, theirs = run.read(run.summary), one.read(one.summary)
    for key in ("steps", "epochs", "trained_tokens", "effective_batch", "train_rows", "conditions_fingerprint"):
        assert ours[key] == theirs[key], key
    assert ours["epochs"] == 2 and ours["steps"] == STEPS
    assert (ours["world"], ours["sharding"], ours["rung"]) == (2, how, None)
    plan = run.read(run.plan)
    assert plan["micro_batch"] * plan["accumulation"] * plan["world"] == plan["effective_batch"] == 8
    # One process wrote, once.
    assert len(run.read(run.environment)["starts"]) == 1
    steps = [line["step"] for line in metric_lines(run.folder) if line["split"] == "train"]
    assert steps == list(range(1, STEPS + 1))


def test_no_file_of_a_sharded_run_needs_pickle(zero2):
    endings = {path.suffix for path in zero2.checkpoints.rglob("*") if path.is_file()}
    assert endings <= {".json", ".safetensors", ""}


def test_one_killed_rank_ends_all_and_the_next_start_ends_as_if_nothing_had_been(make, ddp):
    settings = make("killed", adapter={"dropout": 0.1})
    whole = make("unkilled", adapter={"dropout": 0.1})
    reference = run_in_ranks(whole, log_of(whole))
    run = RunFolder(f"{settings.output}/killed")
    ranks = ForkedRanks(settings, log_of(settings))
    ranks.wait(until=lambda: (run.checkpoints / "checkpoint-5").is_dir())
    os.kill(ranks.processes[1], signal.SIGKILL)
    codes = ranks.wait()
    assert codes[1] == -9 and codes[0] != 0 and not run.is_finished
    assert run_in_ranks(settings, log_of(settings)).is_finished
    # Dropout is on: the random streams of both ranks went on where they were.
    assert metric_lines(run.folder) == metric_lines(reference.folder)
    assert adapter_bytes(run.folder) == adapter_bytes(reference.folder)


@pytest.mark.parametrize("sharding", ["ddp", "zero2"])
def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_one_process_goes_on(make, one, sharding):
    settings = make(f"stopped-{sharding}")
    run = RunFolder(f"{settings.output}/{settings.name}")
    ranks = ForkedRanks(settings, log_of(settings), sharding=sharding, variables={"TRIAGEKIT_ATTEMPT": "7.0"})
    ranks.wait(until=lambda: (run.checkpoints / "checkpoint-3").is_dir())
    os.kill(ranks.processes[1], signal.SIGUSR2)
    assert set(ranks.wait().values()) == {140}, ranks.said()
    record = run.read(run.stopped)
    assert (record["signal"], record["steps"], record["attempt"]) == ("SIGUSR2", STEPS, "7.0")
    assert run.status == "preempted"
    newest = all_checkpoints(run.checkpoints)[-1]
    assert newest.name == f"checkpoint-{record['step']}" and 3 <= record["step"] < STEPS
    assert all(f"stopped after step {record['step']}" in ranks.said(rank) for rank in (0, 1))
    # On to one process: rows, optimizer and schedule move exactly, so the curve is that of a run that never moved.
    alone(settings)
    assert not run.stopped.exists()
    loss, weight = differences(run, one)
    assert loss <= LOSS_TOLERANCE and weight <= WEIGHT_TOLERANCE
    starts = run.read(run.environment)["starts"]
    assert [(start["world"], start["sharding"]) for start in starts] == [(2, sharding), (1, "none")]


def test_a_run_of_one_process_goes_on_with_two_sharded_ones(make, one):
    settings = make("grown")
    run = RunFolder(f"{settings.output}/grown")
    assert run_in_a_process(settings, lambda: (run.checkpoints / "checkpoint-4").is_dir(), deadline=300) == -9
    run_in_ranks(settings, log_of(settings), sharding="zero2")
    said = ForkedRanks.said(type("Log", (), {"_log": log_of(settings)}), 0)
    assert "made by 1 process, now there are 2" in said
    loss, weight = differences(run, one)
    assert loss <= LOSS_TOLERANCE and weight <= WEIGHT_TOLERANCE


def test_an_error_of_one_rank_ends_both_with_its_text(make, tmp_path):
    """Rank 1 cannot write its file of the checkpoint, as on a full disk of its node."""
    settings = make("full", epochs=1)
    ranks = ForkedRanks(settings, log_of(settings), variables={"TRIAGEKIT_TEST_FILE_LIMIT": "1:4096"})
    codes = ranks.wait()
    assert codes == {0: 7, 1: 7}
    run = RunFolder(f"{settings.output}/full")
    # Rank 0 had room, and yet knows why.
    assert "Process 1 of this run failed" in ranks.said(0) and "Nothing more can be written below" in ranks.said(0)
    assert not list(run.checkpoints.glob(".checkpoint-*")) and not all_checkpoints(run.checkpoints)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "triagekit"],
    "cpu_ddp": ["accelerate.commands.launch", "--config_file", "{configs}/cpu_ddp.yaml", "--main_process_port", "0"],
    "cpu_zero2": [
        "accelerate.commands.launch",
        "--config_file",
        "{configs}/cpu_zero2.yaml",
        "--main_process_port",
        "0",
    ],
}


@pytest.mark.parametrize(
    "launcher", ["torchrun", *(pytest.param(name, marks=pytest.mark.long) for name in ("cpu_zero2", "cpu_ddp"))]
)
def test_other_peoples_launchers_start_the_same_run(make, one, tmp_path, checkout, launcher):
    settings = make(f"by-{launcher}")
    config = tmp_path / "mine.yaml"
    config.write_text(to_yaml(settings), encoding="utf-8")
    words = [word.format(configs=checkout / "configs" / "accelerate") for word in LAUNCHERS[launcher]]
    words += ["-m", "triagekit"] if launcher != "torchrun" else []
    done = subprocess.run(
        [sys.executable, "-m", *words, "train", str(config), "--json"],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    run = RunFolder(f"{settings.output}/{settings.name}")
    loss, weight = differences(run, one)
    assert loss <= LOSS_TOLERANCE and weight <= WEIGHT_TOLERANCE
    # Printed by the first process alone.
    assert json.loads(done.stdout[done.stdout.index("{") :])["world"] == 2
    assert run.read(run.summary)["sharding"] == ("zero2" if "zero2" in launcher else "ddp")


MATRIX = [
    ("zero3", {}),
    ("zero3", {"adapter": {"method": "hybrid"}}),
    ("zero3", {"adapter": {"method": "full"}, "optimizer": {"learning_rate": 1e-3}}),
    ("zero2", {"adapter": {"method": "hybrid"}}),
    ("zero2", {"adapter": {"method": "full"}, "optimizer": {"learning_rate": 1e-3}}),
    ("zero2", {"quantization": {"bits": 4}}),
    ("ddp", {"adapter": {"method": "hybrid", "head": "output_tokens"}}),
    ("ddp", {"adapter": {"method": "full"}, "optimizer": {"learning_rate": 1e-3}}),
    ("ddp", {"quantization": {"bits": 4}}),
    ("ddp", {"class_weights": {"category": "balanced"}, "sampling": {"strategy": "balanced", "field": "category"}}),
    ("ddp", {"gradient_checkpointing": True}),
]


@pytest.mark.long
@pytest.mark.parametrize(("sharding", "changes"), MATRIX, ids=[f"{how}-{list(what)}" for how, what in MATRIX])
def test_every_sharding_with_every_method(make, sharding, changes, tmp_path):
    number = MATRIX.index((sharding, changes))
    single, several = make(f"alone-{number}", **changes), make(f"many-{number}", **changes)
    variables = nothing_left_whole(tmp_path) if sharding == "zero3" else {}
    whole, run = alone(single), run_in_ranks(several, log_of(several), sharding=sharding, variables=variables)
    loss, weight = differences(run, whole)
    assert loss <= 10 * LOSS_TOLERANCE and weight <= 10 * WEIGHT_TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_a_sharded_run_that_is_killed_goes_on_exactly(make, sharding, tmp_path):
    # Hybrid: weights with and without decay, so that the optimizer has more than one group.
    hybrid = {"adapter": {"method": "hybrid"}}
    whole, settings = make(f"whole-{sharding}", **hybrid), make(f"killed-{sharding}", **hybrid)
    options = {"sharding": sharding, "variables": nothing_left_whole(tmp_path) if sharding == "zero3" else {}}
    reference = run_in_ranks(whole, log_of(whole), **options)
    run = RunFolder(f"{settings.output}/{settings.name}")
    ranks = ForkedRanks(settings, log_of(settings), **options)
    ranks.wait(until=lambda: (run.checkpoints / "checkpoint-5").is_dir())
    ranks.kill()
    run_in_ranks(settings, log_of(settings), **options)
    assert metric_lines(run.folder) == metric_lines(reference.folder)
    assert adapter_bytes(run.folder) == adapter_bytes(reference.folder)


PIECES = [
    ("ddp", {}),
    ("ddp", {"adapter": {"method": "hybrid"}}),
    ("zero3", {}),
    ("zero3", {"adapter": {"method": "hybrid"}}),
    ("zero3", {"adapter": {"method": "full"}, "optimizer": {"learning_rate": 1e-3}}),
    ("zero3", {"gradient_checkpointing": True}),
    ("zero3", {"adapter": {"method": "hybrid"}, "precision": "bf16"}),
]


@pytest.mark.long
@pytest.mark.parametrize(("sharding", "changes"), PIECES, ids=[f"{how}-{list(what)}" for how, what in PIECES])
def test_logits_piece_by_piece_in_two_processes(make, sharding, changes, monkeypatch, tmp_path):
    """As with a vocabulary whose logits do not fit. The processes do not have equally many pieces, and where ZeRO-3 has
    spread the head they gather its weight equally often, as often as for all logits at once."""
    from deepspeed.runtime.zero import partition_parameters

    from triagekit.training import loss

    number = PIECES.index((sharding, changes))
    variables = nothing_left_whole(tmp_path) if sharding == "zero3" else {}
    own_losses, own_gather = loss.projected_losses, partition_parameters._dist_allgather_fn

    def losses_of(model, hidden, *rest):
        print(f"head: {-(-len(hidden) // loss.tokens_at_once(model))} pieces")
        return own_losses(model, hidden, *rest)

    def gather(*given, **options):
        print("gather")
        return own_gather(*given, **options)

    # The processes are forked from this one.
    monkeypatch.setattr(loss, "projected_losses", losses_of)
    monkeypatch.setattr(partition_parameters, "_dist_allgather_fn", gather)
    runs, said = {}, {}
    for at_once in (10_000, 5):
        monkeypatch.setattr(loss, "tokens_at_once", lambda model, at_once=at_once: at_once)
        settings = make(f"pieces-{number}-{at_once}", **changes)
        runs[at_once] = run_in_ranks(settings, log_of(settings), sharding=sharding, variables=variables)
        said[at_once] = [ForkedRanks.said(type("Log", (), {"_log": log_of(settings)}), rank) for rank in (0, 1)]
    gathers = {text.count("gather\n") for texts in said.values() for text in texts}
    assert len(gathers) == 1 and (gathers != {0}) == (sharding == "zero3")
    calls = [re.findall(r"head: (\d+) pieces", text) for text in said[5]]
    assert len(calls[0]) == len(calls[1]) and sum(one != other for one, other in zip(*calls, strict=True)) > STEPS
    difference, weight = differences(runs[5], runs[10_000])
    rounding = 1000 if changes.get("precision") == "bf16" else 10
    assert difference <= rounding * LOSS_TOLERANCE and weight <= rounding * WEIGHT_TOLERANCE
    if "precision" not in changes:
        difference, weight = differences(runs[5], alone(make(f"whole-head-{number}", **changes)))
        assert difference <= 10 * LOSS_TOLERANCE and weight <= 10 * WEIGHT_TOLERANCE

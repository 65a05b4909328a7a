"""Killed at any moment and started again: the same metrics and, bit for bit, the same adapter."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from training_helpers import adapter_bytes, metric_lines, run_in_a_process

from triagekit.settings import to_yaml
from triagekit.training.checkpoints import all_checkpoints
from triagekit.training.run_folder import RunFolder
from triagekit.training.train import train


def tensorboard_steps(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


@pytest.fixture
def reference(settings_for):
    """The run that nothing interrupts."""

    def make(**changes):
        settings = settings_for(name="whole", **changes)
        assert run_in_a_process(settings) == 0
        return RunFolder(f"{settings.output}/whole")

    return make


def assert_same_result(run, whole):
    assert run.is_finished
    assert metric_lines(run.folder) == metric_lines(whole.folder)
    ours, theirs = adapter_bytes(run.folder), adapter_bytes(whole.folder)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    mine, other = run.read(run.summary), whole.read(whole.summary)
    for key in ("best", "steps", "epochs", "trained_tokens", "val_loss_best", "adapter_fingerprint"):
        assert mine[key] == other[key], key
    steps = tensorboard_steps(run)
    assert steps == sorted(set(steps))


def kill_at(run, moment):
    """A condition that becomes true at a named moment of the run."""
    if moment == "writing a checkpoint":
        return lambda: any(run.checkpoints.glob(".checkpoint-*.tmp"))
    if moment == "saving the adapter":
        return lambda: any(run.folder.glob(".adapter.*.tmp"))
    return lambda: len(metric_lines(run.folder)) >= moment


@pytest.mark.parametrize("method", ["lora", "hybrid"])
def test_three_kills_change_nothing(settings_for, reference, method):
    changes = {"adapter": {"method": method}, "checkpoints": {"every_steps": 2, "keep": 2}}
    whole = reference(**changes)
    assert whole.read(whole.plan)["packing"] == "shared_prefix" and whole.read(whole.plan)["steps_per_epoch"] > 2
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    statuses = [
        run_in_a_process(settings, kill_at(run, moment)) for moment in (2, "writing a checkpoint", "saving the adapter")
    ]
    assert -9 in statuses and not run.is_finished
    assert run_in_a_process(settings) == 0
    assert_same_result(run, whole)


@pytest.mark.long
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        ("adamw_8bit", "cosine_with_min_lr"),
        ("paged_adamw_8bit", "warmup_stable_decay"),
        ("adafactor", "polynomial"),
        ("sgd", "inverse_sqrt"),
    ],
)
def test_a_kill_changes_nothing_whatever_moves_the_weights(settings_for, reference, optimizer, schedule):
    changes = {
        "optimizer": {"name": optimizer, "schedule": schedule, "learning_rate": 5e-3},
        "checkpoints": {"every_steps": 2, "keep": 2},
    }
    whole = reference(**changes)
    losses = [line["loss"] for line in metric_lines(whole.folder) if line["split"] == "val"]
    assert losses[-1] < losses[0]
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    assert run_in_a_process(settings, kill_at(run, 4)) == -9
    assert run_in_a_process(settings) == 0
    assert_same_result(run, whole)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_at_random_moments_change_nothing(settings_for, reference, seed):
    chance = random.Random(seed)
    changes = {
        "adapter": {"method": chance.choice(["lora", "hybrid", "full"])},
        "epochs": 8,
        "checkpoints": {"every_steps": chance.choice([1, 3]), "keep": 1},
        "sampling": {"strategy": "balanced", "field": "priority"},
        "class_weights": {"category": "balanced"},
        "log_every_steps": 1,
    }
    whole = reference(**changes)
    told = whole.read(whole.summary)
    # By the machine's own pace: a fixed time would be most of the run on a fast one.
    step = told["seconds"] / told["steps"]
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    kills = 0
    for _ in range(60):
        enough = kill_at(run, len(metric_lines(run.folder)) + chance.randint(1, 5))
        delay = chance.uniform(0.0, 2.0) * step

        def now(enough=enough, delay=delay):
            return enough() and (time.sleep(delay) or True)

        status = run_in_a_process(settings, now)
        if status == 0:
            break
        assert status == -9
        kills += 1
    assert run_in_a_process(settings) == 0
    assert kills >= 5
    assert_same_result(run, whole)


@pytest.mark.long
def test_kills_at_every_kind_of_moment(settings_for, reference):
    changes = {"epochs": 4, "checkpoints": {"every_steps": 3, "keep": 2}}
    whole = reference(**changes)
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    moments = [1, 3, "writing a checkpoint", 6, 8, "writing a checkpoint", 11, "saving the adapter"]
    kills = sum(run_in_a_process(settings, kill_at(run, moment)) == -9 for moment in moments)
    assert kills >= 5
    assert run_in_a_process(settings) == 0
    assert_same_result(run, whole)


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_result_is_the_same(settings_for, reference):
    changes = {"checkpoints": {"every_steps": 2, "keep": 3}}
    whole = reference(**changes)
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    assert run_in_a_process(settings, lambda: (run.checkpoints / "checkpoint-6").is_dir()) == -9
    newest = all_checkpoints(run.checkpoints)[-1]
    weights = newest / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    notes = []
    train(settings, notes=notes.append)
    assert any(newest.name in note and "damaged" in note for note in notes)
    assert any("Going on from step" in note for note in notes)
    assert metric_lines(run.folder) == metric_lines(whole.folder)
    assert adapter_bytes(run.folder) == adapter_bytes(whole.folder)


def test_a_run_that_had_stopped_early_is_not_trained_on(settings_for, reference):
    changes = {
        "epochs": 10,
        "evaluation": {"every_share": 0.05, "early_stopping": {"patience": 2, "threshold": 10.0}},
        "checkpoints": {"every_steps": 100},
    }
    whole = reference(**changes)
    settings = settings_for(**changes)
    run = RunFolder(f"{settings.output}/run")
    assert run_in_a_process(settings, kill_at(run, "saving the adapter")) == -9
    assert run_in_a_process(settings) == 0
    assert run.read(run.summary)["steps"] == whole.read(whole.summary)["steps"] == 9
    assert_same_result(run, whole)


def test_seconds_add_up_over_sessions(settings_for):
    settings = settings_for(epochs=4, checkpoints={"every_steps": 2, "keep": 2})
    run = RunFolder(f"{settings.output}/run")
    assert run_in_a_process(settings, lambda: (run.checkpoints / "checkpoint-20").is_dir()) == -9
    newest = all_checkpoints(run.checkpoints)[-1]
    from triagekit.training.state_codec import load_state

    before = load_state(newest, "counters")["seconds"]
    assert before > 0
    assert run_in_a_process(settings) == 0
    assert run.read(run.summary)["seconds"] > before
    assert len(run.read(run.environment)["starts"]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_a_checkpoint_and_the_same_command_goes_on(
    settings_for, reference, tmp_path, number, code
):
    changes = {"epochs": 6, "checkpoints": {"every_steps": 1000}}
    config = tmp_path / "mine.yaml"
    settings = settings_for(**changes)
    config.write_text(to_yaml(settings), encoding="utf-8")
    run = RunFolder(f"{settings.output}/run")
    command = [sys.executable, "-m", "triagekit.cli.main", "train", str(config), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    began = time.monotonic()
    while len(metric_lines(run.folder)) < 3 and process.poll() is None and time.monotonic() - began < 120:
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "checkpoint written" in said and "same command" in said
    assert "Traceback" not in said and "Warning" not in said
    assert run.status == ("preempted" if number == signal.SIGTERM else "stopped") and all_checkpoints(run.checkpoints)
    if number == signal.SIGTERM:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "finished"
        assert_same_result(run, reference(**changes))

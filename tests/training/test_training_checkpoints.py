"""Checkpoints: complete or passed over, exact, without pickle."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

from triagekit.errors import TriageError
from triagekit.training.checkpoints import (
    all_checkpoints,
    checkpoint_path,
    fault,
    newest_usable,
    rotate,
    write_checkpoint,
)
from triagekit.training.state_codec import load_state, save_state


def make(root, step, text="x"):
    return write_checkpoint(root, step, lambda folder: (folder / "weights.bin").write_text(f"{text}{step}"))


def test_the_newest_complete_checkpoint_is_chosen(tmp_path):
    for step in (2, 10, 9):
        make(tmp_path, step)
    assert newest_usable(tmp_path, print) == checkpoint_path(tmp_path, 10)


@pytest.mark.parametrize("damage", ["marker", "truncated", "changed", "missing"])
def test_a_damaged_newest_one_is_passed_over_and_said_so(tmp_path, damage):
    make(tmp_path, 4)
    newest = make(tmp_path, 8)
    weights = newest / "weights.bin"
    {
        "marker": lambda: (newest / "COMPLETE").unlink(),
        "truncated": lambda: weights.write_text(""),
        "changed": lambda: weights.write_text("y8"),
        "missing": weights.unlink,
    }[damage]()
    notes = []
    assert newest_usable(tmp_path, notes.append) == checkpoint_path(tmp_path, 4)
    assert not newest.exists()
    assert len(notes) == 1 and "checkpoint-8" in notes[0]


def test_one_whose_best_weights_are_gone_cannot_end_the_run_so_it_is_passed_over(tmp_path):
    for step in (2, 4, 6):
        make(tmp_path, step)
    best = {2: 2, 4: 4, 6: 4}
    (checkpoint_path(tmp_path, 4) / "weights.bin").write_text("gone bad")
    notes = []
    found = newest_usable(tmp_path, notes.append, lambda folder: best[int(folder.name.split("-")[1])])
    assert found == checkpoint_path(tmp_path, 2)
    assert len(notes) == 2


def test_leftovers_of_a_kill_are_removed_and_an_old_copy_is_put_back(tmp_path):
    half = tmp_path / ".checkpoint-6.abc.tmp"
    half.mkdir()
    make(tmp_path, 4).rename(tmp_path / ".checkpoint-4.123.old")
    notes = []
    assert newest_usable(tmp_path, notes.append) == checkpoint_path(tmp_path, 4)
    assert not half.exists() and "cut off" in notes[0]


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        make(tmp_path, step)
    rotate(tmp_path, keep=2, best_step=2)
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert all(fault(path) is None for path in all_checkpoints(tmp_path))


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert newest_usable(tmp_path / "absent", print) is None


def test_optimizer_state_survives_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    optimizer = torch.optim.AdamW([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:]}], lr=1 / 3)
    for _ in range(3):
        sum((weight**2).sum() for weight in weights).backward()
        optimizer.step()
    before = optimizer.state_dict()
    save_state(tmp_path, "optimizer", before)
    after = load_state(tmp_path, "optimizer")
    assert after["param_groups"] == before["param_groups"]
    assert isinstance(after["param_groups"][0]["betas"], tuple)
    for index, state in before["state"].items():
        for name, tensor in state.items():
            assert torch.equal(after["state"][index][name], tensor)
            assert after["state"][index][name].dtype == tensor.dtype
    optimizer.load_state_dict(after)


def test_random_states_survive(tmp_path):
    from triagekit.training.checkpoint_state import random_state, restore_random_state

    save_state(tmp_path, "random", random_state())
    drawn = (torch.rand(5), numpy.random.rand(5))
    restore_random_state(load_state(tmp_path, "random"))
    assert torch.equal(torch.rand(5), drawn[0]) and (numpy.random.rand(5) == drawn[1]).all()


def test_state_files_are_json_and_safetensors_only(tmp_path):
    save_state(tmp_path, "s", {1: (torch.arange(3), [None, True, 0.1, "x"]), "k": numpy.arange(4, dtype="uint32")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.safetensors"]
    json.loads((tmp_path / "s.json").read_text())
    state = load_state(tmp_path, "s")
    assert state[1][1] == [None, True, 0.1, "x"] and state["k"].dtype == numpy.uint32


def test_what_would_need_pickle_is_refused(tmp_path):
    with pytest.raises(TypeError, match="pickle"):
        save_state(tmp_path, "s", {"f": lambda: None})


def test_a_missing_tensor_file_is_an_error_that_names_it(tmp_path):
    save_state(tmp_path, "s", {"a": torch.ones(2)})
    (tmp_path / "s.safetensors").unlink()
    with pytest.raises(TriageError, match="cannot be read back"):
        load_state(tmp_path, "s")

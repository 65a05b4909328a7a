"""Which runs a sweep has, what they are called, and which mistakes are told before anything is submitted."""

from __future__ import annotations

import pytest

from triagekit.errors import ProblemsError
from triagekit.files.resources import shipped_names
from triagekit.sweep.choice import members_of
from triagekit.sweep.settings import SweepSettings, load_sweep


def sweep(**values):
    return SweepSettings.model_validate({"name": "s", "config": "lora", **values})


def names(**values):
    return [member.name for member in members_of(sweep(**values))]


def test_every_combination_with_seeds_changing_fastest():
    members = members_of(sweep(methods=["lora", "hybrid"], ranks=[4, 8], seeds=[1, 2]))
    assert [member.name for member in members] == [
        f"{method}-r{rank}-seed{seed}" for method in ("lora", "hybrid") for rank in (4, 8) for seed in (1, 2)
    ]
    one = members[-1]
    assert (one.settings.adapter.method, one.settings.adapter.r, one.settings.seed) == ("hybrid", 8, 2)
    assert str(one.run) == "runs/s/hybrid-r8-seed2"
    assert one.settings.name == one.name


def test_the_same_sweep_gives_the_same_members():
    values = {"methods": ["lora"], "vary": {"optimizer.learning_rate": [1e-3, 2e-3]}, "seeds": [3]}
    assert names(**values) == names(**values) == ["lora-learning_rate-0.001-seed3", "lora-learning_rate-0.002-seed3"]


def test_zip_pairs_the_lists_and_repeats_single_values():
    members = members_of(
        sweep(combine="zip", methods=["lora"], ranks=[4, 8], vary={"optimizer.learning_rate": [1e-3, 5e-4]})
    )
    assert [(member.settings.adapter.r, member.settings.optimizer.learning_rate) for member in members] == [
        (4, 1e-3),
        (8, 5e-4),
    ]


def test_zip_of_lists_of_different_length_is_refused_with_the_lengths():
    with pytest.raises(ValueError, match=r"adapter\.r 2.*seed 3"):
        sweep(combine="zip", ranks=[4, 8], seeds=[1, 2, 3])


def test_full_fine_tuning_has_no_rank_and_is_one_member():
    assert names(methods=["lora", {"name": "full", "config": "full"}], ranks=[4, 8]) == ["lora-r4", "lora-r8", "full"]


def test_a_method_with_overrides_of_its_own():
    members = members_of(
        sweep(
            overrides=["optimizer.learning_rate=1e-3"],
            methods=[
                "lora",
                {"name": "dora", "overrides": ["adapter.dora=true", "optimizer.learning_rate=5e-4"]},
            ],
        )
    )
    assert [member.name for member in members] == ["lora", "dora"]
    assert [member.settings.adapter.dora for member in members] == [False, True]
    assert [member.settings.optimizer.learning_rate for member in members] == [1e-3, 5e-4]


def test_values_become_parts_of_a_folder_name():
    assert names(vary={"adapter.targets": [["q_proj", "v_proj"], "all-linear"]}) == [
        "targets-q_proj_v_proj",
        "targets-all-linear",
    ]


def test_settings_with_one_ending_keep_their_whole_name():
    found = names(vary={"prompt.max_length": [256], "checkpoints.keep": [1], "batch.eval": [8]})
    assert found == ["max_length-256-keep-1-eval-8"]
    found = names(vary={"optimizer.name": ["sgd"], "sampling.field": [None]})
    assert found == ["name-sgd-field-None"]


def test_two_members_with_one_name_are_refused():
    with pytest.raises(ProblemsError, match=r"member 'targets-a_b'.*two members"):
        members_of(sweep(vary={"adapter.targets": [["a b"], ["a/b"]]}))


def test_mistakes_of_all_members_are_told_once_each():
    with pytest.raises(ProblemsError) as told:
        members_of(sweep(methods=["lora", "lroa"], seeds=[1, 2, -1], overrides=["optimizer.learning_rte=1"]))
    text = str(told.value)
    assert text.count("Did you mean 'learning_rate'?") == 1
    with pytest.raises(ProblemsError) as told:
        members_of(sweep(methods=["lora", "lroa"], seeds=[1, -1]))
    assert "adapter.method" in str(told.value) and "seed" in str(told.value)


@pytest.mark.parametrize("key", ["name", "output", "hardware.rung", "seed", "adapter.r"])
def test_what_the_sweep_sets_itself_cannot_be_varied(key):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        sweep(vary={key: [1]})


@pytest.mark.parametrize("name", ["../x", "a b", "", "-x", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(name):
    with pytest.raises(ValueError, match="folder name"):
        SweepSettings.model_validate({"name": name})


@pytest.mark.parametrize("name", shipped_names("sweep"))
def test_shipped_sweeps_can_be_run(name):
    members = members_of(load_sweep(name))
    assert len({member.name for member in members}) == len({str(member.run) for member in members}) == len(members) > 1

"""Which learning rate a method takes, and which runs there are before and after that is known."""

from __future__ import annotations

import json

import pytest

from triagekit.errors import ProblemsError, TriageError
from triagekit.sweep.choice import chosen_members, members_of, rate_choices
from triagekit.sweep.settings import SweepSettings, settings_of_methods

METHODS = [
    {"name": "lora"},
    {"name": "dora", "overrides": ["adapter.dora=true"], "learning_rates": [1e-4, 3e-4]},
    {"name": "qlora", "overrides": ["quantization={bits: 4}"], "learning_rates": [5e-4]},
]


@pytest.fixture
def sweep(tmp_path):
    def make(**changes):
        values = {"name": "s", "output": str(tmp_path), "methods": METHODS, "learning_rates": [1e-3, 2e-3, 4e-3]}
        return SweepSettings.model_validate({**values, "seeds": [1, 2, 3], **changes})

    return make


def finish(sweep, losses):
    for member in members_of(sweep):
        if member.name in losses:
            member.run.mkdir(parents=True, exist_ok=True)
            (member.run / "summary.json").write_text(json.dumps({"val_loss_best": losses[member.name]}))


def names(members):
    return [member.name for member in members]


def test_rates_are_tried_with_the_first_seed_and_one_rate_needs_no_trial(sweep):
    assert names(members_of(sweep())) == [
        "lora-learning_rate-0.001-seed1",
        "lora-learning_rate-0.002-seed1",
        "lora-learning_rate-0.004-seed1",
        "dora-learning_rate-0.0001-seed1",
        "dora-learning_rate-0.0003-seed1",
        "qlora-learning_rate-0.0005-seed1",
        "qlora-learning_rate-0.0005-seed2",
        "qlora-learning_rate-0.0005-seed3",
    ]
    assert [choice.chosen for choice in rate_choices(sweep())] == [None, None]
    assert names(chosen_members(sweep())) == [f"qlora-learning_rate-0.0005-seed{seed}" for seed in (1, 2, 3)]


def test_the_best_on_val_goes_on_with_the_other_seeds(sweep):
    settings = sweep()
    trials = {"lora-learning_rate-0.001-seed1": 0.5, "lora-learning_rate-0.002-seed1": 0.3}
    finish(settings, trials)
    assert "lora-learning_rate-0.002-seed2" not in names(members_of(settings)), "a rate is still untried"
    finish(settings, {"lora-learning_rate-0.004-seed1": 0.4})
    assert names(chosen_members(settings))[:3] == [f"lora-learning_rate-0.002-seed{seed}" for seed in (1, 2, 3)]
    assert set(names(chosen_members(settings))) <= set(names(members_of(settings)))
    lora = rate_choices(settings)[0]
    assert (lora.method, lora.chosen, lora.at_the_edge) == ("lora", 2e-3, False)
    assert lora.val_losses == {1e-3: 0.5, 2e-3: 0.3, 4e-3: 0.4}


def test_a_best_rate_at_the_edge_is_known_as_such_and_a_diverged_trial_is_never_best(sweep):
    settings = sweep(methods=["lora"], learning_rates=[1e-3, 2e-3])
    finish(settings, {"lora-learning_rate-0.001-seed1": float("nan"), "lora-learning_rate-0.002-seed1": 0.7})
    (choice,) = rate_choices(settings)
    assert choice.chosen == 2e-3 and choice.at_the_edge


def test_ranks_and_other_lists_each_choose_their_own(sweep):
    settings = sweep(methods=["lora"], ranks=[4, 16], learning_rates=[1e-3, 2e-3])
    finish(
        settings,
        {
            "lora-r4-learning_rate-0.001-seed1": 0.5,
            "lora-r4-learning_rate-0.002-seed1": 0.4,
            "lora-r16-learning_rate-0.001-seed1": 0.1,
            "lora-r16-learning_rate-0.002-seed1": 0.2,
        },
    )
    assert {choice.method: choice.chosen for choice in rate_choices(settings)} == {
        "lora, adapter.r=4": 2e-3,
        "lora, adapter.r=16": 1e-3,
    }


def test_a_run_without_validation_cannot_choose(sweep):
    settings = sweep(methods=["lora"], learning_rates=[1e-3, 2e-3])
    finish(settings, {"lora-learning_rate-0.001-seed1": None})
    with pytest.raises(TriageError, match="no validation split"):
        members_of(settings)


def test_a_sweep_over_rates_themselves_chooses_nothing(sweep):
    settings = sweep(methods=["lora"], learning_rates=[], vary={"optimizer.learning_rate": [1e-3, 2e-3]})
    assert len(members_of(settings)) == len(chosen_members(settings)) == 6
    assert rate_choices(settings) == []


def test_rates_are_named_once(sweep):
    with pytest.raises(ValueError, match="leave one of them out"):
        sweep(vary={"optimizer.learning_rate": [1e-3]})


def test_what_defines_the_methods_is_known(sweep):
    assert settings_of_methods(sweep()) == {"adapter.dora", "quantization"}


def test_a_pipeline_refuses_rates_that_would_have_to_be_chosen_half_way():
    from triagekit.cluster.pipeline_settings import PipelineSettings

    train = {"methods": ["lora"], "learning_rates": [1e-3, 2e-3], "overrides": ["data=x"]}
    with pytest.raises(ProblemsError, match="learning_rates"):
        PipelineSettings.model_validate({"name": "p", "train": train}).members()

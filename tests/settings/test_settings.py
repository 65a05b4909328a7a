"""Typed settings: every mistake at once, with file, line, key and the nearest valid key."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, model_validator

from triagekit.errors import ProblemsError
from triagekit.settings import Settings, load_settings, to_yaml


class Optimizer(Settings):
    learning_rate: float = Field(2e-4, gt=0)
    schedule: Literal["cosine", "linear"] = "cosine"


class Train(Settings):
    data: str
    epochs: int = 3
    optimizer: Optimizer = Optimizer()

    @model_validator(mode="after")
    def check(self) -> Train:
        if self.data == "same":
            raise ValueError("data must differ")
        return self


def write(tmp_path, text):
    path = tmp_path / "train.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_file_and_overrides(tmp_path):
    path = write(tmp_path, "data: d\noptimizer:\n  learning_rate: 1e-5\n")
    settings = load_settings(Train, path, ["epochs=5", "optimizer.schedule=linear"])
    assert settings == Train(data="d", epochs=5, optimizer=Optimizer(learning_rate=1e-5, schedule="linear"))
    again = write(tmp_path, to_yaml(settings))
    assert load_settings(Train, again) == settings


@pytest.mark.parametrize("text", ["2e-5", "1e-4", "0.5"])
def test_numbers_on_the_command_line_are_numbers(tmp_path, text):
    settings = load_settings(Train, write(tmp_path, "data: d\n"), [f"optimizer.learning_rate={text}"])
    assert settings.optimizer.learning_rate == float(text)


def test_all_mistakes_at_once_with_line_and_nearest_key(tmp_path):
    path = write(tmp_path, "epoch: 3\noptimizer:\n  learning_rte: 1\n  schedule: cosin\n  learning_rate: -1\n")
    with pytest.raises(ProblemsError) as caught:
        load_settings(Train, path, ["optimiser.learning_rate=1", "epochs=many"])
    text = str(caught.value)
    assert f"{path}:1 epoch: unknown key 'epoch'. Did you mean 'epochs'?" in text
    assert f"{path}:3 optimizer.learning_rte: unknown key 'learning_rte'. Did you mean 'learning_rate'?" in text
    assert f"{path}:4 optimizer.schedule" in text
    assert f"{path}:5 optimizer.learning_rate" in text
    assert "override 'optimiser': unknown key 'optimiser'. Did you mean 'optimizer'?" in text
    assert "override 'epochs'" in text
    assert "'data' is needed" in text
    assert len(caught.value.problems) == 7


def test_a_validator_speaks_in_its_own_words(tmp_path):
    with pytest.raises(ProblemsError, match="data must differ"):
        load_settings(Train, write(tmp_path, "data: same\n"))


@pytest.mark.parametrize("override", ["epochs", "=3", "data.inner=3"])
def test_broken_overrides_are_explained(tmp_path, override):
    with pytest.raises(ProblemsError, match="override"):
        load_settings(Train, write(tmp_path, "data: d\n"), [override])


def test_a_list_is_not_settings(tmp_path):
    with pytest.raises(ProblemsError, match="found a list"):
        load_settings(Train, write(tmp_path, "- a\n"))

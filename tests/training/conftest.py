"""Settings for runs of a second on a tiny processed data set."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "modeling"))

from training_helpers import rows, write_processed

from triagekit.training.settings import TrainSettings


@pytest.fixture(scope="session")
def processed(tmp_path_factory):
    splits = {"train": rows(44, 1), "val": rows(12, 2), "test": rows(4, 3)}
    return write_processed(tmp_path_factory.mktemp("data") / "tiny", splits)


@pytest.fixture
def settings_for(tiny_model_folder, processed, tmp_path):
    """Settings of a small run; keyword arguments replace keys (nested dicts are merged)."""

    def make(**changes):
        values = {
            "name": "run",
            "base": str(tiny_model_folder),
            "data": str(processed),
            "output": str(tmp_path / "runs"),
            "seed": 3,
            "prompt": {"strategy": "implicit", "max_length": 256},
            "adapter": {"method": "lora", "r": 4, "alpha": 8, "dropout": 0.1},
            "precision": "fp32",
            "optimizer": {"learning_rate": 5e-3},
            "batch": {"effective": 8, "micro": 4, "eval": 8},
            "epochs": 2,
            "evaluation": {"every_share": 0.25},
            "log_every_steps": 2,
        }
        for key, value in changes.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        return TrainSettings.model_validate(values)

    return make

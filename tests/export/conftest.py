"""One data set and one run of each kind for all tests of exports."""

from __future__ import annotations

import pytest
from export_helpers import make_run, write_data


@pytest.fixture(scope="session")
def export_data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("export_data") / "desk")


@pytest.fixture(scope="session")
def run_of(tmp_path_factory, export_data, tiny_model_folder):
    """A run by its adapter's settings, made once."""
    made = {}

    def get(name, quantization=None, **adapter):
        if name not in made:
            folder = tmp_path_factory.mktemp("export_runs") / name
            made[name] = make_run(folder, export_data, tiny_model_folder, quantization, **adapter)
        return made[name]

    return get


@pytest.fixture(scope="session")
def lora_run(run_of):
    return run_of("lora-seed0")


@pytest.fixture(scope="session")
def hybrid_run(run_of):
    return run_of("hybrid-seed0", method="hybrid")

"""An adapter to score with."""

from __future__ import annotations

from pathlib import Path

import pytest
from scoring_helpers import make_adapter


@pytest.fixture(scope="session")
def adapter(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("adapter") / "adapter", tiny_model_folder)

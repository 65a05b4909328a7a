"""Several runs over one archive in one pass: each gets what it would get alone, and they share their base."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from scoring_helpers import LABELS_SCHEMA, make_adapter, settings_for, table_of, write_archive

from triagekit.cli.main import main
from triagekit.errors import TriageError
from triagekit.modeling.adapter_folder import LoadedAdapter, load_adapter
from triagekit.modeling.forward import hidden_states, project_to_logits
from triagekit.modeling.settings import QuantizationSettings
from triagekit.modeling.shared_base import share_frozen
from triagekit.scoring.job import score_archive, score_archives
from triagekit.scoring.settings import for_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> dict[str, Path]:
    """Two schemas over one base, and one of them trained whole."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "desk": make_adapter(folder / "desk" / "adapter", tiny_model_folder).parent,
        "labels": make_adapter(folder / "labels" / "adapter", tiny_model_folder, LABELS_SCHEMA, seed=1).parent,
        "whole": make_adapter(folder / "whole" / "adapter", tiny_model_folder, method="full").parent,
    }


def test_each_run_gets_the_rows_that_it_gets_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    archive, out = tmp_path / "tickets.csv", tmp_path / "out"
    ids = write_archive(archive, 41)
    with archive.open("a", encoding="utf-8") as handle:
        handle.write(f"{ids[0]},again\n")
    together = for_runs(settings_for(runs["desk"], archive, out), [str(runs["desk"]), str(runs["labels"])])
    manifests = score_archives(together)
    assert [(manifest.rows_in, manifest.rows_out, manifest.rejects) for manifest in manifests] == [(42, 41, 1)] * 2
    for name in ("desk", "labels"):
        alone = tmp_path / f"{name}-alone"
        score_archive(settings_for(runs[name], archive, alone, merged=False))
        assert table_of(out / name) == table_of(alone)
        assert (out / name / "rejects.jsonl").read_text() == (alone / "rejects.jsonl").read_text()
        assert [row["id"] for row in table_of(out / name)] == ids
    # A part of one run is lost: only that one is scored again, and by the same command.
    lost = out / "labels" / "part-00001.parquet"
    before = lost.read_bytes()
    lost.unlink()
    assert [manifest.scored_now for manifest in score_archives(together)] == [0, 16]
    assert lost.read_bytes() == before


def test_from_the_command_line(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, out = tmp_path / "tickets.csv", tmp_path / "out"
    write_archive(archive, 10)
    words = ["score", str(archive), "--run", str(runs["desk"]), "--run", str(runs["labels"]), "--out", str(out)]
    assert main([*words, "--device", "cpu", "workers=1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [job["rows_out"] for job in told["jobs"]] == [10, 10]
    assert main(["score", "status", str(out), "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert [(Path(job["folder"]).name, job["state"]) for job in jobs] == [("desk", "finished"), ("labels", "finished")]


def test_what_does_not_go_together_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    settings = settings_for(runs["desk"], tmp_path / "a.csv", tmp_path / "out")
    with pytest.raises(TriageError, match="both called 'desk'"):
        for_runs(settings, [str(runs["desk"]), str(runs["desk"] / "adapter")])
    with pytest.raises(TriageError, match="one earlier job"):
        for_runs(settings.model_copy(update={"append_since": "x"}), [str(run) for run in runs.values()])
    with pytest.raises(ValueError, match="int8 rounds the weights"):
        settings_for(runs["desk"], tmp_path / "a.csv", tmp_path / "out", precision="int8", merged=False)
    together = for_runs(settings.model_copy(update={"publish": "s3://bucket/x/"}), [str(run) for run in runs.values()])
    assert [(job.merged, job.publish) for job in together] == [
        (False, f"s3://bucket/x/{name}") for name in ("desk", "labels", "whole")
    ]
    # `run=…` among the words may have replaced what --run says, as every setting.
    assert for_runs(settings, ["replaced"]) == [settings]


def logits(adapter: LoadedAdapter) -> torch.Tensor:
    with torch.inference_mode():
        return project_to_logits(adapter.model, hidden_states(adapter.model, torch.tensor([[5, 6, 7]]))[0])


@pytest.mark.parametrize("bits", [None, 4])
def test_the_base_is_in_memory_once(runs: dict[str, Path], bits: int | None) -> None:
    quantization = None if bits is None else QuantizationSettings.model_validate({"bits": bits})
    first, second = (
        load_adapter(runs[name] / "adapter", device="cpu", quantization=quantization) for name in ("desk", "labels")
    )
    before = logits(first), logits(second)
    assert not torch.equal(*before)
    own = sum(parameter.numel() * parameter.element_size() for parameter in first.model.parameters())
    adapters = sum(
        parameter.numel() * parameter.element_size()
        for name, parameter in first.model.named_parameters()
        if "lora_" in name
    )
    saved = share_frozen([first, second])
    assert saved == own - adapters
    assert share_frozen([first, second]) == 0
    assert torch.equal(logits(first), before[0]) and torch.equal(logits(second), before[1])


def test_a_run_that_was_trained_whole_keeps_its_weights(runs: dict[str, Path]) -> None:
    first, whole = (load_adapter(runs[name] / "adapter", device="cpu") for name in ("desk", "whole"))
    with torch.no_grad():
        for parameter in whole.model.parameters():
            parameter.add_(0.01)
    assert share_frozen([first, whole]) == 0


def test_planning_words_import_no_torch() -> None:
    import subprocess

    code = "import triagekit.scoring.settings, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

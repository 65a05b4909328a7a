"""The notebooks run from top to bottom against run folders, show what they promise, and are stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from fake_runs import gold_rows, make_baselines, make_run

from triagekit.compare.notebook import find_runs
from triagekit.errors import TriageError
from triagekit.schema import load_schema

NAMES = ("01_compare_runs", "02_errors_and_confusion")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    rows = gold_rows(load_schema("it_tickets"), 60)
    for method, share in (("lora", 0.7), ("hybrid", 0.9)):
        make_run(root / "runs" / f"{method}-seed1", method, 1, share, rows)
    make_baselines(root / "data", rows, 0.6)
    return root / "runs"


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_top_to_bottom(name, checkout, runs, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("TRIAGEKIT_RUNS", str(runs / "*-seed*"))
    notebook = nbformat.read(checkout / "analysis" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(checkout / "analysis")}}).execute()
    shown = "\n".join(
        str(output.get("data", {}).get(kind, ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in ("text/html", "text/markdown", "text/plain")
    )
    assert "hybrid" in shown
    if name == NAMES[0]:
        assert "hybrid is better than lora" in shown
        assert shown.count("<svg") == 4
        assert "tfidf_linear" in shown
    else:
        assert 'class="hit"' in shown
        assert "&lt;script&gt;alert(1)" in shown
        assert "language = es" in shown


@pytest.mark.parametrize("name", NAMES)
def test_is_stored_without_outputs_and_thin(name, checkout):
    notebook = nbformat.read(checkout / "analysis" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 12


def test_finding_runs(tmp_path, runs, monkeypatch):
    monkeypatch.setenv("TRIAGEKIT_RUNS", str(runs / "lora*"))
    assert [path.name for path in find_runs()] == ["lora-seed1"]
    monkeypatch.delenv("TRIAGEKIT_RUNS")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path / "analysis")
    assert sorted(Path(path).name for path in find_runs()) == ["hybrid-seed1", "lora-seed1"]
    monkeypatch.setenv("TRIAGEKIT_RUNS", "nowhere/*")
    with pytest.raises(TriageError, match="nowhere"):
        find_runs()

"""A whole sweep on this machine with the shipped base: stopped half way, gone on with, and ending in one report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from triagekit.cli.main import main

SWEEP = """
name: small
config: lora
output: {output}
overrides: [data={data}, max_train_rows=32, epochs=1, adapter.r=4, evaluation.max_rows=8]
learning_rates: [1.0e-4, 4.0e-3]
methods:
  - {{name: lora}}
  - {{name: broken, overrides: ['adapter.layers=[90]'], learning_rates: [1.0e-3]}}
seeds: [1, 2]
"""


@pytest.mark.long
def test_stopped_gone_on_with_and_one_report(tmp_path, capsys):
    raw, data, config = tmp_path / "raw.jsonl", tmp_path / "data", tmp_path / "small.yaml"
    assert main(["data", "generate", "--rows", "120", "--seed", "5", "--out", str(raw)]) == 0
    assert main(["data", "prepare", "it_tickets", "--source", str(raw), "--out", str(data)]) == 0
    config.write_text(SWEEP.format(output=tmp_path / "runs", data=data))
    words = [sys.executable, "-m", "triagekit", "sweep", str(config), "--jobs", "2", "--limit", "6"]
    folder = tmp_path / "runs" / "small"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    trained = folder / "lora-learning_rate-0.0001-seed1" / "summary.json"
    deadline = time.monotonic() + 300
    while not trained.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert "The same command goes on" in told
    assert not (folder / "report.html").exists()

    # A member that cannot be trained is named with its reason, the others are finished, and nothing is compared yet.
    again = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=900)
    assert again.returncode == 2
    assert "adapter.layers names [90]" in again.stderr and "2 members could not be trained" in again.stderr
    chosen = {row["method"]: row["chosen"] for row in json.loads((folder / "learning_rates.json").read_text())}
    assert chosen == {"lora": 4e-3}, "two steps at 1e-4 teach next to nothing"
    assert (folder / "lora-learning_rate-0.004-seed2" / "summary.json").exists()

    # The mended sweep takes what is there.
    before = trained.stat().st_mtime_ns
    mended = config.read_text().replace("adapter.layers=[90]", "adapter.dora=true").replace("broken", "dora")
    config.write_text(mended)
    last = subprocess.run(
        [*words, "--json"], env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=900
    )
    assert last.returncode == 0, last.stderr
    assert trained.stat().st_mtime_ns == before
    result = json.loads(last.stdout)
    assert len(result["runs"]) == 4
    compared = json.loads((folder / "comparison.json").read_text())
    assert [method["name"] for method in compared["methods"]] == ["lora", "dora"]
    assert compared["conditions"]["comparable"], compared["conditions"]["verdict"]
    kinds = {item["name"]: item["kind"] for item in compared["conditions"]["differences"]}
    assert kinds["optimizer.learning_rate"] == "chosen"
    assert {baseline["name"] for baseline in compared["baselines"]} == {"majority", "tfidf_linear"}
    page = (folder / "report.html").read_text()
    assert "Sweep small" in page and "chosen for each method on the validation split" in page

"""Archive jobs whose driver is killed with -9, and which the same command finishes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from scoring_helpers import settings_for, table_of, write_archive

from triagekit.progress import SilentProgress
from triagekit.scoring.job import score_archive


def _kill_driver_at(command: list[str], out: Path, parts: int, delay: float) -> bool:
    """Run the command and kill it with -9 some time after `parts` parts stand. False if it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if len(list(out.glob("part-*.parquet"))) >= parts:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.02)
    return False


def _command(adapter: Path, archive: Path, out: Path) -> list[str]:
    words = [
        "score",
        str(archive),
        "--run",
        str(adapter),
        "--out",
        str(out),
        "--shard-rows",
        "16",
        "--batch-size",
        "16",
    ]
    return [sys.executable, "-m", "triagekit.cli.main", *words, "--workers", "1", "--device", "cpu"]


def test_a_killed_driver_costs_no_row(adapter: Path, tmp_path: Path) -> None:
    ids = write_archive(tmp_path / "tickets.csv", 160)
    out = tmp_path / "out"
    command = _command(adapter, tmp_path / "tickets.csv", out)
    assert _kill_driver_at(command, out, parts=2, delay=0.05)
    assert not (out / "manifest.json").exists()
    standing = len(list(out.glob("part-*.parquet")))
    finished = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    manifest = json.loads(finished.stdout)
    assert [row["id"] for row in table_of(out)] == ids
    # The killed driver's worker may have finished one more part after it was counted.
    assert standing <= manifest["parts_kept"] < 10
    assert manifest["scored_now"] == 160 - 16 * manifest["parts_kept"]


@pytest.mark.long
def test_a_killed_raylet_costs_no_row(adapter: Path, tmp_path: Path) -> None:
    """Ray then has no node for new workers, and by itself would wait for one for ever."""
    ids = write_archive(tmp_path / "tickets.csv", 1600)
    out = tmp_path / "out"
    # Ray looks seldom, so that a busy machine is not taken for a dead one; here it may be quick.
    quick = {"period_ms": "200", "timeout_ms": "1000", "failure_threshold": "3", "initial_delay_ms": "0"}
    environment = {**os.environ, **{f"RAY_health_check_{name}": value for name, value in quick.items()}}
    command = [*_command(adapter, tmp_path / "tickets.csv", out), "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    while len(list(out.glob("part-*.parquet"))) < 2:
        assert driver.poll() is None
        time.sleep(0.02)
    (raylet,) = [each for each in psutil.Process(driver.pid).children(recursive=True) if each.name() == "raylet"]
    raylet.kill()
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0
    manifest = json.loads(said)  # what Ray says of it stands elsewhere
    assert [row["id"] for row in table_of(out)] == ids
    assert manifest["lost_workers"] == 1 and manifest["rows_out"] == 1600


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_killed_drivers_leave_the_same_rows(adapter: Path, tmp_path: Path) -> None:
    ids = write_archive(tmp_path / "tickets.csv", 640)
    whole = tmp_path / "whole"
    score_archive(settings_for(adapter, tmp_path / "tickets.csv", whole))
    out = tmp_path / "out"
    command = _command(adapter, tmp_path / "tickets.csv", out)
    source = random.Random(11)
    kills = 0
    for kill in range(10):
        kills += _kill_driver_at(command, out, parts=1 + 3 * kill, delay=source.uniform(0, 0.5))
    subprocess.run(command, check=True, capture_output=True)
    assert kills >= 5
    rows = table_of(out)
    assert [row["id"] for row in rows] == ids
    assert rows == table_of(whole)


class _LoseNode(SilentProgress):
    """Takes a node away once some rows are scored."""

    def __init__(self, lose: Callable[[], None]) -> None:
        self._lose: Callable[[], None] | None = lose

    def advance(self, count: int = 1, **figures: Any) -> None:
        if self._lose is not None and "review" in figures:
            self._lose()
            self._lose = None


@pytest.mark.long
def test_a_lost_node_of_a_shared_cluster_leaves_its_work_to_the_others(adapter: Path, tmp_path: Path) -> None:
    """There is no room for a new worker then, and Ray would keep it waiting, with the shards that it was given."""
    from ray.cluster_utils import Cluster

    ids = write_archive(tmp_path / "tickets.csv", 1600)
    quick = {"health_check_period_ms": 200, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": quick})
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        settings = settings_for(
            adapter, tmp_path / "tickets.csv", tmp_path / "out", workers=2, ray_address=cluster.address
        )
        manifest = score_archive(settings, _LoseNode(lambda: cluster.remove_node(other, allow_graceful=False)))
    finally:
        cluster.shutdown()
    assert [row["id"] for row in table_of(tmp_path / "out")] == ids
    assert (manifest.rows_out, manifest.lost_workers) == (1600, 1)

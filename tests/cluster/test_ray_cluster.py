"""Two nodes of the real Slurm as one Ray cluster: every ticket once, also when the job is stopped in the middle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cluster_helpers import job_info, wait_for_state, wait_until
from mini_slurm import MiniSlurm

pytestmark = pytest.mark.cluster

_MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from scoring_helpers import make_adapter, write_archive
folder = Path(sys.argv[2])
make_adapter(folder / "adapter", Path(sys.argv[3]))
write_archive(folder / "archive.csv", 160)
"""


def log_of(job_folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(job_folder.glob("*.log")))


@pytest.mark.timeout(1500)
def test_every_ticket_is_scored_once_over_two_nodes_and_over_a_stop(
    slurm: MiniSlurm, checkout: Path, tmp_path: Path, tiny_model_folder: Path
):
    import subprocess

    import pyarrow.parquet as parquet

    helpers = str(checkout / "tests" / "scoring")
    subprocess.run([sys.executable, "-c", _MAKE, helpers, str(tmp_path), str(tiny_model_folder)], check=True)
    out = tmp_path / "scores"
    words = [
        *("submit", "score", "default", "--site", "test", "--nodes", "2", "--json", "site.defaults.memory=3G"),
        *(f"archive={tmp_path}/archive.csv", f"run={tmp_path}/adapter", f"out={out}"),
        *("device=cpu", "shard_rows=10", "batch_size=1"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "triagekit", *words],
        env=slurm.environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    submitted = json.loads(done.stdout)["jobs"][0]
    job, folder = submitted["job_id"], tmp_path / submitted["folder"]

    wait_until(lambda: len(list(out.glob("part-*.parquet"))) >= 2, "the first parts", timeout=600, slurm=slurm)
    nodes = job_info(slurm, job)["NodeList"]
    assert nodes == "a[1-2]"
    workers = {path.name for path in Path("/tmp").glob(f"ray-{job}-*")}
    assert workers == {f"ray-{job}-0", f"ray-{job}-1"}
    # As Slurm warns before the time limit: to the processes of the step.
    slurm.run("scancel", "--signal=USR2", job)
    wait_until(lambda: job_info(slurm, job)["Restarts"] == "1", "the requeue", timeout=300, slurm=slurm)
    kept = len(list(out.glob("part-*.parquet")))
    assert not (out / "manifest.json").exists()
    wait_for_state(slurm, job, "COMPLETED", timeout=900)

    log = log_of(folder)
    assert log.count("triage: Ray cluster at ") == 2, log
    assert "no more shards are taken" in log and "Exited with exit code 140" in log
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rows_in"] == manifest["rows_out"] == 160 and manifest["rejects"] == 0
    assert kept <= manifest["parts_kept"] + 1 and manifest["parts_kept"] >= 2 and manifest["scored_now"] < 160
    ids = [
        identity
        for path in sorted(out.glob("part-*.parquet"))
        for identity in parquet.read_table(path, columns=["id"]).column("id").to_pylist()
    ]
    assert sorted(ids) == [f"T-{number:05d}" for number in range(160)]
    # Nothing is left of the cluster: no process, no folder.
    assert not list(Path("/tmp").glob(f"ray-{job}-*"))
    left = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"ray-{job}-".encode() in (path.read_bytes() if path.exists() else b"")
    ]
    assert not left


def test_a_node_that_cannot_join_fails_the_job_with_its_words(slurm: MiniSlurm, tmp_path: Path):
    """The archive is never begun on a part of the nodes; the exit code is not that of a stop, so nothing is requeued."""
    script = tmp_path / "job.sh"
    script.write_text(
        f"""#!/bin/bash
#SBATCH -p gpuA -N 2 --ntasks-per-node=1 --mem=1500 --output={tmp_path}/log
export RAY_AUTH_MODE=disabled
code=0
srun bash -c 'if [ "$SLURM_NODEID" = 1 ]; then exit 0; fi
exec {sys.executable} -m triagekit.cluster.ray_cluster --join-seconds 8 -- a.csv --run r --out o' || code=$?
exec {sys.executable} -m triagekit.cluster.score_attempt end --code "$code"
"""
    )
    job = slurm.run("sbatch", "--parsable", str(script)).strip()
    info = wait_for_state(slurm, job, "FAILED", timeout=300)
    assert info["ExitCode"] == "1:0" and info["Restarts"] == "0"
    assert "of 2 nodes joined the Ray cluster" in (tmp_path / "log").read_text()
    assert not list(Path("/tmp").glob(f"ray-{job}-*"))

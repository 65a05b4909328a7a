"""Exactly once: 20,000 real bug summaries scored with Ray, the driver killed with -9 halfway, then run again.

python benchmarks/eclipse_archive_kill.py --run RUN --out /tmp/eclipse [--rows 20000]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from it_service_tickets import run_figures
from record import real_data, triage, write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run with the eclipse schema (default: train one)")
    parser.add_argument("--train-rows", type=int, default=4000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--shard-rows", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    archive = options.out / "archive.parquet"
    table = parquet.read_table(real_data() / "eclipse_bugzilla_437k.parquet")
    parquet.write_table(table.slice(0, options.rows), archive)
    run = options.run or train_on(table.slice(options.rows, 2 * options.train_rows), options.train_rows, options.out)
    scores = options.out / "scores"
    words = [
        *("score", str(archive), "--run", str(run), "--out", str(scores), "--mapping", "eclipse"),
        *("--shard-rows", str(options.shard_rows), "--workers", str(options.workers)),
    ]
    shards = -(-options.rows // options.shard_rows)
    began = time.monotonic()
    # A process group of its own, so that the kill takes the driver alone, as an out-of-memory killer would.
    driver = subprocess.Popen([sys.executable, "-m", "triagekit.cli.main", *words], start_new_session=True)
    while parts(scores) < shards // 2:
        if driver.poll() is not None:
            raise SystemExit(f"the job ended by itself with exit code {driver.returncode} before the kill")
        time.sleep(0.5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done_at_kill, first_seconds = parts(scores), time.monotonic() - began
    print(f"\nkilled -9 with {done_at_kill} of {shards} parts written")
    began = time.monotonic()
    triage(*words)
    second_seconds = time.monotonic() - began
    ids = Counter()
    verdicts = Counter()
    for part in sorted(scores.glob("part-*.parquet")):
        rows = parquet.read_table(part, columns=["id", "verdict"])
        ids.update(rows["id"].to_pylist())
        verdicts.update(rows["verdict"].to_pylist())
    rejects = sum(1 for _ in (scores / "rejects.jsonl").open(encoding="utf-8"))
    doubled = sum(1 for count in ids.values() if count > 1)
    figures = {
        "rows_in": options.rows,
        "rows_out": sum(ids.values()),
        "distinct_ids": len(ids),
        "rejects": rejects,
        "doubled": doubled,
        "lost": options.rows - len(ids) - rejects,
        "parts": shards,
        "parts_at_kill": done_at_kill,
        "verdicts": dict(verdicts),
        "run": {key: value for key, value in run_figures(run).items() if key != "trainable"},
        "seconds_until_kill": round(first_seconds),
        "seconds_of_rerun": round(second_seconds),
        "rows_per_second_rerun": round((shards - done_at_kill) * options.shard_rows / second_seconds, 1),
    }
    print(figures)
    assert doubled == 0 and figures["lost"] == 0, "a ticket was lost or doubled"
    print(write_record("eclipse_archive_kill", figures))


def train_on(table: pa.Table, rows: int, out: Path) -> Path:
    """One short LoRA run on `rows` of the reports in `table`."""
    source, data = out / "train.parquet", out / "data"
    parquet.write_table(table, source)
    triage("data", "prepare", "eclipse", "--source", source, "--out", data)
    triage(
        *("train", "lora", f"data={data}", f"output={out / 'runs'}", "seed=1", "--name", "lora"),
        *(f"max_train_rows={rows}", "epochs=1", "evaluation.every_share=0.5"),
    )
    triage("evaluate", out / "runs" / "lora", "--split", "test", "--limit", 500)
    return out / "runs" / "lora"


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


if __name__ == "__main__":
    main()

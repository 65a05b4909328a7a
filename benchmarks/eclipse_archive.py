"""A real archive: bug summaries of Eclipse scored with Ray, and the same again under random `kill -9`s.

python benchmarks/eclipse_archive.py --out /tmp/eclipse [--run RUN] [--rows 100000] [--kill-rows 50000] [--kills 30]

The archive is drawn from all 437,000 reports. The embedded base is fine-tuned on 5,000 others (product → component as a
dependent enum), and its confidences are calibrated on val. One job scores the archive undisturbed: rows a second, and how
right the surest reports are beside how right they were said to be. A second one
scores the first `--kill-rows` of it, while drivers, workers and raylets are killed at random moments; at the end each report
must stand there exactly once, with the row of the undisturbed job; how many are the same bit for bit is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
from it_service_tickets import run_figures
from record import real_data, triage, write_record

SHARD_ROWS = 250
COVERAGES = (0.1, 0.25, 0.5, 0.75, 1.0)
AUTO_AT = 0.5
VICTIMS = ("driver", "worker", "raylet")
LONGEST_WAIT = 0.6
"""Seconds between a part that was written and the kill, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run with the eclipse schema (default: train one)")
    parser.add_argument("--train-rows", type=int, default=5000)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kill-rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.kill_rows % SHARD_ROWS or options.kill_rows > options.rows:
        parser.error(
            f"--kill-rows must be a multiple of {SHARD_ROWS} (its shards are the other job's) and at most --rows"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    whole = parquet.read_table(real_data() / "eclipse_bugzilla_437k.parquet")
    # The file is in the order of time, and products come and go: both are drawn from all of it.
    drawn = random.Random(1).sample(range(whole.num_rows), options.rows + 2 * options.train_rows)
    table = whole.take(pa.array(sorted(drawn[: options.rows])))
    run = options.run or train_on(whole.take(pa.array(sorted(drawn[options.rows :]))), options)
    if not (run / "calibration.json").is_file():
        triage("evaluate", run, "--split", "test", "--limit", 500, "--calibrate")
    figures = {"run": {key: value for key, value in run_figures(run).items() if key != "trainable"}}
    figures["undisturbed"] = undisturbed(table.slice(0, options.rows), run, options)
    figures["killed"] = killed(table.slice(0, options.kill_rows), run, options)
    print(json.dumps({name: figures[name] for name in ("undisturbed", "killed")}, indent=1))
    print(write_record("eclipse_archive", figures))
    judge(figures["killed"])


def train_on(table: pa.Table, options: argparse.Namespace) -> Path:
    """A run on some of the reports in `table`."""
    out = options.out
    source, data = out / "train.parquet", out / "data"
    parquet.write_table(table, source)
    triage("data", "prepare", "eclipse", "--source", source, "--out", data)
    triage(
        *("train", "full", f"data={data}", f"output={out / 'runs'}", "seed=1", "--name", "full"),
        *(f"max_train_rows={options.train_rows}", f"epochs={options.epochs:g}", "evaluation.every_share=0.5"),
    )
    return out / "runs" / "full"


def undisturbed(table: pa.Table, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the whole job."""
    words, scores = job(table, run, options, "whole")
    triage(*words)
    manifest = json.loads((scores / "manifest.json").read_text(encoding="utf-8"))
    kept = ("rows_in", "rows_out", "rejects", "seconds", "rows_per_second", "decoding", "workers")
    truth = {
        str(report): (product, component)
        for report, product, component in zip(
            *(table[name].to_pylist() for name in ("bug_id", "Product", "Component")), strict=True
        )
    }
    rows = rows_of(scores)
    auto = [row for row in rows if row["verdict"] == "auto"]
    policy = {name: manifest["policy"][name] for name in ("auto_at", "coverage", "expected_error")}
    right = sum((row["product"], row["component"]) == truth.get(row["id"]) for row in auto)
    policy["error"] = round(1 - right / len(auto), 4) if auto else None
    return {
        **{name: manifest[name] for name in kept},
        "auto": policy,
        "right_by_coverage": by_coverage(rows, truth),
    }


def by_coverage(rows: list[dict[str, Any]], truth: dict[str, tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Share of reports with both labels right among the surest, by the share of the archive that these are, beside the
    share that their calibrated chances promise; reports whose component the schema does not have can never be right, and
    count."""
    surest = sorted(rows, key=lambda row: -(row["confidence_record"] or 0))
    right = [(row["product"], row["component"]) == truth.get(row["id"]) for row in surest]
    products = [row["product"] == truth.get(row["id"], ("", ""))[0] for row in surest]
    found = {}
    for coverage in COVERAGES:
        count = max(1, round(coverage * len(right)))
        found[f"{coverage:.0%}"] = {
            "both_right": round(sum(right[:count]) / count, 4),
            "both_right_promised": round(sum(row["confidence_record"] or 0 for row in surest[:count]) / count, 4),
            "product_right": round(sum(products[:count]) / count, 4),
        }
    return found


def killed(table: pa.Table, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the job that was disturbed."""
    words, scores = job(table, run, options, "killed")
    source, began = random.Random(1), time.monotonic()
    victims: Counter[str] = Counter()
    starts = 0
    driver: subprocess.Popen[bytes] | None = None
    while sum(victims.values()) < options.kills and not (scores / "manifest.json").is_file():
        if driver is None or driver.poll() is not None:
            starts += 1
            driver = start(words)
        if not one_more_part(driver, scores):
            continue
        time.sleep(source.uniform(0, LONGEST_WAIT))
        kind = source.choice(VICTIMS)
        if kill(driver, kind, source):
            victims[kind] += 1
            print(f"kill {sum(victims.values())} of {options.kills}: {kind}, {parts(scores)} parts", flush=True)
        if kind == "driver":
            driver.wait()
    if driver is not None:
        driver.wait()
    if not (scores / "manifest.json").is_file():
        triage(*words)
    rows = rows_of(scores)
    whole = {row["id"]: row for row in rows_of(options.out / "scores-whole")}
    # What differs is told apart: last digits of confidences, or anything else.
    differing = [row for row in rows if row != whole.get(row["id"])]
    other = [row["id"] for row in differing if not nearly(row, whole.get(row["id"], {}))]
    ids = Counter(row["id"] for row in rows)
    rejects = sum(1 for _ in (scores / "rejects.jsonl").open(encoding="utf-8"))
    return {
        "rows_in": table.num_rows,
        "rows_out": len(rows),
        "rejects": rejects,
        "doubled": sum(count > 1 for count in ids.values()),
        "lost": table.num_rows - len(ids) - rejects,
        "equal_bit_for_bit": len(rows) - len(differing),
        "equal_but_for_last_digits": len(differing) - len(other),
        "other_than_undisturbed": len(other),
        "kills": dict(victims),
        "starts": starts,
        "seconds": round(time.monotonic() - began),
    }


def judge(figures: dict[str, Any]) -> None:
    """Raises SystemExit where a row is lost, doubled, or not that of the undisturbed job bit for bit."""
    wrong = ("doubled", "lost", "equal_but_for_last_digits", "other_than_undisturbed")
    if any(figures[name] for name in wrong):
        raise SystemExit(f"The job under kills is not the undisturbed one: { {name: figures[name] for name in wrong} }")


def nearly(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows differ in the last digits of numbers only."""
    pairs = [(row[name], other.get(name)) for name in row]
    return all(
        math.isclose(one, two, abs_tol=1e-4) if isinstance(one, float) and isinstance(two, float) else one == two
        for one, two in pairs
    )


def job(table: pa.Table, run: Path, options: argparse.Namespace, name: str) -> tuple[list[str], Path]:
    """Words of `triage` that score `table`, and the folder it writes."""
    archive, scores = options.out / f"{name}.parquet", options.out / f"scores-{name}"
    parquet.write_table(table, archive)
    words = ["score", str(archive), "--run", str(run), "--out", str(scores), "--mapping", "eclipse"]
    words += ["--auto-at", str(AUTO_AT)]
    return [*words, "--shard-rows", str(SHARD_ROWS), "--workers", str(options.workers)], scores


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """The driver, in a session of its own: a kill takes what it is meant to take."""
    return subprocess.Popen([sys.executable, "-m", "triagekit.cli.main", *words], start_new_session=True)


def one_more_part(driver: subprocess.Popen[bytes], scores: Path) -> bool:
    """Wait for a part that was not there before; False when the driver ended first."""
    before = parts(scores)
    while driver.poll() is None:
        if parts(scores) > before:
            return True
        time.sleep(0.1)
    return False


def kill(driver: subprocess.Popen[bytes], kind: str, source: random.Random) -> bool:
    """Kill -9 the driver, one of its workers or its raylet; False where there is none just now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(driver.pid).children(recursive=True)
        family = [process for process in family if process.status() != psutil.STATUS_ZOMBIE]
        named = {
            "driver": [psutil.Process(driver.pid)],
            "worker": [process for process in family if "ScoreWorker" in " ".join(process.cmdline())],
            "raylet": [process for process in family if process.name() == "raylet"],
        }[kind]
        if named:
            source.choice(named).send_signal(signal.SIGKILL)
            return True
    return False


def rows_of(scores: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for part in sorted(scores.glob("part-*.parquet")):
        rows += parquet.read_table(part).to_pylist()
    return rows


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


if __name__ == "__main__":
    main()

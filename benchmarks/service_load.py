"""A run served over HTTP under load: requests a second and their latencies by number of clients.

    python benchmarks/service_load.py [--work .peers/work] [--clients 1 4 16 64] [--seconds 20]

`triage serve` runs in a process of its own with two threads; clients are threads of this process, each with a connection
that it keeps, and post one ticket after the other. What the same decoder does with all tickets at hand (`Predictor.predict`
in a process of its own, before and after) is what the service is measured against: `share` is its tickets a second over
that. The run and the tickets are those of scoring_vs_peers.py.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

from matrix_rate import THREADS
from peers.engines import ENGINES, process_environment, run_engine
from record import write_record
from scoring_vs_peers import prepare

BATCH = 64
PATIENCE = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=20, help="of each number of clients (default: 20)")
    parser.add_argument("--tickets", type=int, metavar="N")
    parser.add_argument("--work", type=Path, help="keep the run in this folder for the next call")
    options = parser.parse_args()
    options.quick, options.gpu, options.engines = False, False, []
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        task = prepare("embedded", work, options)
        content = json.loads(task.read_text(encoding="utf-8"))
        direct = [rate(task)]
        with tempfile.TemporaryFile("w+") as log:
            process, port = serve(content["runs"]["json"], log)
            try:
                found = [under_load(port, content["texts"], count, options.seconds) for count in options.clients]
            finally:
                process.terminate()
                process.wait(PATIENCE)
        direct.append(rate(task))
    for row in found:
        row["share"] = round(row["tickets_per_second"] / max(direct), 3)
        print(json.dumps(row), flush=True)
    print(write_record("service_load", {"threads": THREADS, "batch": BATCH, "direct": direct, "clients": found}))


def rate(task: Path) -> float:
    """Tickets a second of the decoder by itself."""
    found = run_engine("ours", task, {"batch": BATCH})
    return round(len(found["texts"]) / found["seconds"], 2)


def serve(run: str, log: Any) -> tuple[subprocess.Popen[bytes], int]:
    """A started service that is ready, and its port."""
    words = [sys.executable, "-m", "triagekit", "serve", run, "--port", "0", "--device", "cpu"]
    words += ["--batch-size", str(BATCH)]
    process = subprocess.Popen(words, stdout=log, stderr=log, env=process_environment(ENGINES["ours"]))
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        log.seek(0)
        said = log.read()
        if "ready: POST" in said and (match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", said)):
            return process, int(match[1])
        time.sleep(0.2)
    process.kill()
    raise SystemExit(f"triage serve did not start:\n{said}")


def under_load(port: int, texts: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """What `clients` clients got in `seconds` seconds."""
    waits: list[float] = []
    refused: list[int] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        place = number
        while time.perf_counter() < end:
            body = json.dumps({"text": texts[place % len(texts)]})
            place += clients
            begun = time.perf_counter()
            connection.request("POST", "/v1/triage", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                waits.append(time.perf_counter() - begun)
            else:
                refused.append(answer.status)
                time.sleep(float(answer.headers.get("Retry-After", 1)))
        connection.close()

    begun = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    parts = quantiles(waits, n=100, method="inclusive")
    return {
        "clients": clients,
        "answered": len(waits),
        "refused": len(refused),
        "tickets_per_second": round(len(waits) / taken, 2),
        "milliseconds": {name: round(1000 * parts[at - 1], 1) for name, at in (("p50", 50), ("p95", 95), ("p99", 99))},
    }


if __name__ == "__main__":
    main()

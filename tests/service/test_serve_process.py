"""`triage serve` as a process: a real model, real clients, hostile ones among them, and signals under load."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))

from scoring_helpers import TICKETS_SCHEMA, make_adapter, many_tickets
from service_helpers import JSON, background, connect, metric, raw_request, send, wait_until

from triagekit.cli.main import main
from triagekit.schema.json_schema import json_schema

CONNECTIONS = 16
TOKEN = "0123456789abcdef-token"
GOOD = 'triagekit_requests_total{route="/v1/triage",status="200"}'
ALLOWED = {**JSON, "Authorization": f"Bearer {TOKEN}"}
HOSTILE: list[tuple[bytes, dict[str, str], int]] = [
    (b'{"text": "unfinished', ALLOWED, 400),
    (b"[" * 50_000, ALLOWED, 400),
    (b'{"text": NaN}', ALLOWED, 400),
    (b"\xff\xfe{}", ALLOWED, 400),
    (b'{"tickets": [{"text": 1}]}', ALLOWED, 422),
    (json.dumps({"tickets": [{"text": "x"}] * 300}).encode(), ALLOWED, 422),
    (json.dumps({"text": "x" * 20_001}).encode(), ALLOWED, 422),
    (b'{"text": "x"}', {**ALLOWED, "Content-Type": "text/xml"}, 415),
    (b'{"text": "x"}', JSON, 401),
    (b"x" * 200_000, ALLOWED, 413),
]


class Process:
    """A started `triage serve`, its log in a file."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("w") as handle:
            self.popen = subprocess.Popen(
                command, stdout=handle, stderr=handle, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
            )
        self.port = int(wait_until(lambda: self.found(r"listening on http://127\.0\.0\.1:(\d+)"), 300))

    def found(self, pattern: str) -> str | None:
        ended = self.popen.poll() is not None
        match = re.search(pattern, self.log.read_text())
        assert match or not ended, self.log.read_text()
        return match[1] if match else None

    def metric(self, name: str) -> float:
        return metric(send(self.port, "GET", "/metrics", headers=ALLOWED)[1], name)


@pytest.fixture(scope="module")
def run_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "lora-seed1"
    folder.mkdir()
    make_adapter(folder / "adapter", tiny_model_folder, TICKETS_SCHEMA)
    return folder


@pytest.fixture(scope="module")
def process(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    words = ["serve", str(run_folder), "--port", "0", "--device", "cpu", "--json", "--batch-size", "8"]
    words += ["max_body_bytes=100000", "grace_seconds=300", "timeout_seconds=300", "auto_threshold=0.5"]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    started = Process([sys.executable, "-m", "triagekit", *words], log, TRIAGEKIT_TOKEN=TOKEN)
    wait_until(lambda: started.found("(ready: POST)"), 300)
    yield started
    if started.popen.poll() is None:
        started.popen.kill()
    started.popen.wait(60)


@pytest.fixture(scope="module")
def predicted(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `triage predict` says of each ticket."""
    texts = many_tickets(40)
    file = tmp_path_factory.mktemp("tickets") / "tickets.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        words = ["predict", str(run_folder), "--file", str(file), "--device", "cpu", "--auto-threshold", "0.5"]
        assert main([*words, "--json"]) == 0
    return dict(zip(texts, map(json.loads, out.getvalue().splitlines()), strict=True))


def check(answer: dict[str, Any], texts: list[str], predicted: dict[str, dict[str, Any]]) -> None:
    assert [item["id"] for item in answer["tickets"]] == list(range(len(texts)))
    for item, text in zip(answer["tickets"], texts, strict=True):
        expected = predicted[text]
        assert {name: item[name] for name in ("record", "verdict", "error")} == {
            name: expected[name] for name in ("record", "verdict", "error")
        }
        assert item["confidence"] == pytest.approx(expected["confidence"], abs=1e-4)
        labels = [share for name, share in expected["confidence"].items() if name != "summary"]
        assert item["overall"] == pytest.approx(min(labels), abs=1e-4)


def body_of(texts: list[str]) -> bytes:
    return json.dumps({"tickets": [{"id": number, "text": text} for number, text in enumerate(texts)]}).encode()


@pytest.mark.long
def test_every_good_request_among_hostile_ones_gets_the_records_of_predict(process, predicted) -> None:
    texts = list(predicted)
    assert len({json.dumps(item["record"]) for item in predicted.values()}) > 5

    def client(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=300)
        for turn in range(2):
            mine = list(itertools.islice(itertools.cycle(texts), number * 3 + turn, number * 3 + turn + 1 + number % 4))
            connection.request("POST", "/v1/triage", body_of(mine), ALLOWED)
            response = connection.getresponse()
            assert response.status == 200
            check(json.loads(response.read()), mine, predicted)
            body, headers, status = HOSTILE[(number + turn * 7) % len(HOSTILE)]
            assert send(process.port, "POST", "/v1/triage", body, headers)[0] == status
            with connect(process.port) as rude:
                rude.sendall(raw_request(b'{"text": "', length=1000))
        connection.close()
        return number

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        assert list(pool.map(client, range(CONNECTIONS))) == list(range(CONNECTIONS))
    status, health, _ = send(process.port, "GET", "/health", headers=ALLOWED)
    assert status == 200 and health["run"] == "lora-seed1" and health["schema"] == "desk"
    assert set(health["fingerprints"]) == {"adapter", "schema", "template", "base"}
    assert send(process.port, "GET", "/v1/schema", headers=ALLOWED)[1] == json_schema(TICKETS_SCHEMA)
    assert process.metric("triagekit_batch_tickets_count") < process.metric("triagekit_batch_tickets_sum")


@pytest.mark.long
def test_sigterm_under_load_answers_what_is_queued_and_ends_with_0(process, predicted) -> None:
    texts = list(predicted)[:12]

    def client(number: int) -> tuple[int, Any, dict[str, str]]:
        return send(process.port, "POST", "/v1/triage", body_of(texts), ALLOWED)

    before, logged = process.metric(GOOD), len(process.log.read_text())
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = [pool.submit(client, number) for number in range(CONNECTIONS)]
        wait_until(lambda: process.metric("triagekit_waiting_requests") + process.metric(GOOD) - before == CONNECTIONS)
        assert process.metric("triagekit_queue_tickets") > 0
        process.popen.send_signal(signal.SIGTERM)
        for answer in answers:
            status, content, _ = answer.result(300)
            assert status == 200
            check(content, texts, predicted)
    assert process.popen.wait(300) == 0
    log = process.log.read_text()
    assert log.rstrip().endswith("triage: stopped") and "Traceback" not in log
    # Of the requests of this test: which others the process has answered depends on what ran before.
    lines = [json.loads(line) for line in log[logged:].splitlines() if line.startswith("{")]
    assert sum(line["status"] == 200 and line["route"] == "/v1/triage" for line in lines) == CONNECTIONS
    assert not any(text in log for text in predicted) and TOKEN not in log


SCRIPT = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from service_helpers import GatedPredictor, SCHEMA
from triagekit.service.server import listen, serve
from triagekit.service.service import TriageService
from triagekit.service.settings import ServeSettings

def load(settings, served):
    if sys.argv[2] == "loading":
        time.sleep(600)
    if sys.argv[2] == "broken":
        raise ValueError("no weights")
    return GatedPredictor(is_open=False)

settings = ServeSettings(run="runs/fake", port=0, grace_seconds=float(sys.argv[3]))
serve(TriageService(settings, None, load), listen(settings), False, lambda line: print(line, flush=True))
"""


def start_script(tmp_path: Path, *words: str) -> Process:
    return Process([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), *words], tmp_path / "log")


def test_the_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    process = start_script(tmp_path, "stuck", "600")
    wait_until(lambda: process.found("(ready)"))
    with background(lambda: send(process.port, "POST", "/v1/triage", b'{"text": "a"}', JSON)) as answer:
        wait_until(lambda: process.metric("triagekit_waiting_requests") == 1)
        process.popen.send_signal(signal.SIGINT)
        with pytest.raises(OSError):
            wait_until(lambda: send(process.port, "GET", "/health/live")[0] != 200)
        assert process.popen.poll() is None
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(60) == 128 + signal.SIGTERM
        assert isinstance(answer(), OSError)


def test_a_stop_while_the_model_is_loaded_or_stuck_waits_for_the_grace_time_only(tmp_path: Path) -> None:
    process = start_script(tmp_path, "loading", "0.2")
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(60) == 0
    assert "the model was still at work" in process.log.read_text()


def test_a_model_that_cannot_be_loaded_ends_the_service(tmp_path: Path) -> None:
    process = start_script(tmp_path, "broken", "600")
    assert process.popen.wait(60) == 1
    assert "ValueError: no weights" in process.log.read_text()

"""The service over real sockets, with a predictor of the test's own: what goes in, what comes out, what is refused."""

from __future__ import annotations

import json
import socket

import pytest
from service_helpers import (
    JSON,
    SCHEMA,
    GatedPredictor,
    RunningService,
    background,
    connect,
    raw_request,
    wait_until,
)

from triagekit.schema.json_schema import json_schema
from triagekit.service.token import Token

SECRET = "correct-horse-battery-staple"


def read_all(connection: socket.socket) -> bytes:
    content = b""
    while piece := connection.recv(65536):
        content += piece
    return content


def test_one_ticket_and_many_come_back_in_the_order_given(run_service) -> None:
    service = run_service()
    status, answer, headers = service.post({"text": "a printer", "id": "T-1"})
    assert status == 200 and headers["content-type"] == "application/json"
    assert answer == {
        "run": "fake",
        "schema": "desk",
        "fingerprints": {"adapter": "a" * 16, "schema": SCHEMA.fingerprint},
        "decoding": {"precision": "auto", "fields": None, "auto_at": None},
        "tickets": [
            {
                "id": "T-1",
                "record": {"summary": "a printer", "category": "Network"},
                "confidence": {"summary": 0.25, "category": 0.123457},
                "overall": 0.123457,
                "verdict": "auto",
                "error": None,
            }
        ],
    }
    _, answer, _ = service.post({"tickets": [{"text": "z", "id": 7}, {"text": "é\ud800", "id": None}, {"text": "a"}]})
    assert [(item["id"], item["record"]["summary"]) for item in answer["tickets"]] == [
        (7, "z"),
        (None, "é�"),
        (None, "a"),
    ]


def test_what_is_said_about_the_service(run_service) -> None:
    service = run_service()
    status, health, _ = service.request("GET", "/health")
    assert status == 200 and health["ready"] and health["alive"] and health["run"] == "fake"
    assert health["fingerprints"]["adapter"] == "a" * 16
    assert service.request("GET", "/health/live")[:2] == (200, {"alive": True})
    assert service.request("GET", "/v1/schema")[1] == json_schema(SCHEMA)
    service.post({"tickets": [{"text": "a"}, {"text": "b"}]})
    service.post({"txt": "a"})
    assert service.metric("triagekit_ready") == 1
    assert service.metric('triagekit_requests_total{route="/v1/triage",status="200"}') == 1
    assert service.metric('triagekit_requests_total{route="/v1/triage",status="422"}') == 1
    assert service.metric('triagekit_tickets_total{verdict="auto"}') == 2
    assert service.metric("triagekit_batch_tickets_sum") == 2
    assert service.metric('triagekit_batch_tickets_bucket{le="1"}') == 0
    assert service.metric('triagekit_batch_tickets_bucket{le="+Inf"}') == 1
    assert service.metric("triagekit_request_seconds_count") == 1
    paths = service.request("GET", "/openapi.json")[1]["paths"]
    assert "requestBody" in paths["/v1/triage"]["post"]


def test_until_the_model_is_loaded_the_service_is_alive_and_not_ready() -> None:
    service = RunningService(GatedPredictor(), None, {})
    service.loading.clear()
    service.start()
    status, health, _ = service.request("GET", "/health")
    assert status == 503 and health["alive"] and not health["ready"] and health["state"] == "loading"
    assert health["run"] == "fake" and health["fingerprints"] is None
    assert service.request("GET", "/health/live")[0] == 200
    for status, answer, headers in (service.post({"text": "early"}), service.request("GET", "/v1/schema")):
        assert status == 503 and answer["error"]["reason"] == "loading" and headers["retry-after"]
    assert service.metric("triagekit_ready") == 0
    service.loading.set()
    wait_until(lambda: service.request("GET", "/health")[0] == 200)
    assert service.post({"text": "now"})[0] == 200
    service.server.stop()
    service.thread.join(60)


def test_wrong_routes_and_methods_are_explained(run_service) -> None:
    service = run_service()
    status, answer, _ = service.request("POST", "/v1/triag", b"{}", JSON)
    assert status == 404 and answer["error"]["problems"][0]["expected"] == "Did you mean '/v1/triage'?"
    status, answer, headers = service.request("GET", "/v1/triage")
    assert status == 405 and headers["allow"] == "POST" and answer["error"]["problems"][0]["expected"] == "POST"


def test_without_the_token_nothing_is_said_and_nothing_is_read(run_service) -> None:
    service = run_service(token=Token(SECRET))
    answers = [
        service.post({"text": "a"}, headers)
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {SECRET[:-1]}"},
            {"Authorization": f"Bearer {SECRET}x"},
            {"Authorization": f"Basic {SECRET}"},
            {"Authorization": SECRET},
            {"Authorization": "Bearer \xff"},
        )
    ]
    assert {status for status, _, _ in answers} == {401}
    assert {json.dumps(answer) for _, answer, _ in answers} == {
        '{"error": {"reason": "unauthorized", "message": "A valid bearer token is needed."}}'
    }
    assert answers[0][2]["www-authenticate"] == "Bearer"
    assert service.request("GET", "/metrics")[0] == service.request("GET", "/v1/schema")[0] == 401
    status, health, _ = service.request("GET", "/health")
    assert status == 200 and set(health) == {"alive", "ready", "state"}
    allowed = {"Authorization": f"Bearer {SECRET}"}
    assert service.post({"text": "a"}, allowed)[0] == 200
    assert service.request("GET", "/health", headers=allowed)[1]["run"] == "fake"


def test_a_full_queue_answers_429_and_when_to_come_again(run_service) -> None:
    predictor = GatedPredictor(is_open=False)
    service = run_service(predictor, queue_tickets=2, max_tickets=2)
    with background(lambda: service.post({"text": "in the model"})) as first:
        wait_until(lambda: predictor.batches)
        with background(lambda: service.post({"tickets": [{"text": "q1"}, {"text": "q2"}]})) as second:
            wait_until(lambda: service.service.batcher.depth == 2)
            assert service.metric("triagekit_queue_tickets") == 2
            assert service.metric("triagekit_waiting_requests") == 2
            status, answer, headers = service.post({"text": "one too many"})
            assert status == 429 and int(headers["retry-after"]) >= 1 and answer["error"]["reason"] == "queue full"
            predictor.gate.set()
            assert first()[0] == second()[0] == 200
    assert service.metric("triagekit_waiting_requests") == 0


def test_a_client_that_goes_away_takes_its_tickets_out_of_the_queue(run_service, log_lines) -> None:
    predictor = GatedPredictor(is_open=False)
    service = run_service(predictor)
    with background(lambda: service.post({"text": "stays"})) as stays:
        wait_until(lambda: predictor.batches)
        with connect(service.port) as connection:
            connection.sendall(raw_request(b'{"tickets": [{"text": "gone"}, {"text": "gone"}]}'))
            wait_until(lambda: service.service.batcher.depth == 2)
        wait_until(lambda: service.service.batcher.depth == 0)
        predictor.gate.set()
        assert stays()[0] == 200
    assert predictor.batches == [["stays"]]
    assert service.metric('triagekit_tickets_dropped_total{reason="client gone"}') == 2
    assert any("status=499" in line and "gone=True" in line for line in log_lines)


def test_a_request_that_waits_too_long_gets_503_and_leaves_the_queue(run_service) -> None:
    predictor = GatedPredictor(is_open=False)
    service = run_service(predictor, timeout_seconds=0.2)
    with background(lambda: service.post({"text": "in the model"})) as first:
        wait_until(lambda: predictor.batches)
        status, answer, headers = service.post({"text": "waits"})
        assert status == 503 and answer["error"]["reason"] == "timeout" and "retry-after" in headers
        assert first()[0] == 503 and service.service.batcher.depth == 0
    predictor.gate.set()
    wait_until(lambda: service.post({"text": "next"})[0] == 200)
    assert ["waits"] not in predictor.batches


def test_a_body_that_never_ends_and_a_head_that_never_comes_are_given_up(run_service) -> None:
    service = run_service(timeout_seconds=0.3, header_seconds=0.3)
    with connect(service.port) as slow, connect(service.port) as silent, connect(service.port) as half:
        slow.sendall(raw_request(b'{"text": ', length=100))
        half.sendall(b"POST /v1/triage HTTP/1.1\r\nHost: x\r\n")
        assert b" 408 " in read_all(slow)
        assert read_all(silent) == read_all(half) == b""


def test_broken_http_is_refused_and_harms_nobody(run_service) -> None:
    service = run_service()
    for content in (b"\x00\x01\x02\r\n\r\n", b"GET  \r\n\r\n", b"A" * 200_000 + b"\r\n\r\n"):
        with connect(service.port) as connection:
            connection.sendall(content)
            try:
                assert b" 400 " in read_all(connection)
            except ConnectionError:
                continue
    assert service.post({"text": "a"})[0] == 200


def test_what_nobody_foresaw_is_a_plain_500_and_the_log_quotes_no_ticket(run_service, log_lines) -> None:
    class Broken(GatedPredictor):
        def answer(self, text: str) -> object:
            if text == "odd":
                return object()
            raise RuntimeError(f"cannot do {text}")

    service = run_service(Broken())
    status, answer, _ = service.post({"text": "TOPSECRET"})
    assert status == 500 and answer["error"]["message"] == "The model failed on a batch (RuntimeError)."
    status, answer, _ = service.post({"text": "odd"})
    assert status == 500 and answer["error"]["reason"] == "internal" and "Traceback" not in json.dumps(answer)
    service.post({"TOPSECRET": 1})
    service.request("POST", "/v1/triage?text=TOPSECRET", b'{"text": "TOPSECRET', JSON)
    service.request("GET", "/TOPSECRET", headers={"User-Agent": "TOPSECRET"})
    wait_until(lambda: len(log_lines) >= 6)
    assert not any("TOPSECRET" in line for line in log_lines)
    assert any("unforeseen AttributeError at " in line for line in log_lines)
    assert any("route=other status=404" in line for line in log_lines)


def test_while_stopping_what_is_queued_is_answered_and_nothing_more_is_taken(run_service) -> None:
    predictor = GatedPredictor(is_open=False)
    service = run_service(predictor)
    with background(lambda: service.post({"text": "in the model"})) as first:
        wait_until(lambda: predictor.batches)
        with background(lambda: service.post({"text": "queued"})) as second:
            wait_until(lambda: service.service.batcher.depth == 1)
            service.server.stop()
            wait_until(lambda: service.service.batcher.state == "stopping")
            with pytest.raises(OSError):
                wait_until(lambda: service.post({"text": "late"})[0] == 200)
            predictor.gate.set()
            assert first()[0] == second()[0] == 200
    service.thread.join(60)
    assert not service.thread.is_alive()


def test_when_the_grace_time_is_over_those_who_wait_are_told(run_service) -> None:
    predictor = GatedPredictor(is_open=False)
    service = run_service(predictor, grace_seconds=0)
    with background(lambda: service.post({"text": "in the model"})):
        wait_until(lambda: predictor.batches)
        with background(lambda: service.post({"text": "queued"})) as queued:
            wait_until(lambda: service.service.batcher.depth == 1)
            service.server.stop()
            status, answer, _ = queued()
            assert status == 503 and answer["error"]["reason"] == "stopping"
        predictor.gate.set()

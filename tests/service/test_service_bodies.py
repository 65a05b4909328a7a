"""Bodies that are no requests: each is explained, and none holds the service up or takes it down."""

from __future__ import annotations

import pytest
from service_helpers import JSON, GatedPredictor, RunningService, connect, raw_request


@pytest.mark.parametrize(
    ("body", "status", "where", "given", "expected"),
    [
        (b"", 400, "$", "an empty body", "JSON"),
        (b'{"text": ', 400, "$", "line 1, column 10", "JSON"),
        (b'{"text": "caf\xe9"}', 400, "$", "byte 0xe9 at offset 13", "UTF-8"),
        (b'{"text": NaN}', 400, "$", "NaN, which is no JSON", "RFC 8259"),
        (b'{"text": "a", "text": "b"}', 400, "$", "'text' twice", "every key once"),
        (b"[" * 100_000, 400, "$", "nested hundreds deep", "JSON"),
        (b'{"text":' * 50_000, 400, "$", "nested hundreds deep", "JSON"),
        (b"9" * 10_000, 400, "$", "thousands of digits", "JSON"),
        (b'"text"', 422, "$", "text of 4 characters", '{"text": …}'),
        (b"null", 422, "$", "null", '{"text": …}'),
        (b"{}", 422, "$", "no keys", '{"text": …}'),
        (b'{"txt": "a"}', 422, "$", "the key 'txt'", "did you mean 'text'?"),
        (b'{"text": 1e400}', 422, "$.text", "a very large number", "text"),
        (b'{"text": "a", "id": true}', 422, "$.id", "true", "whole number"),
        (b'{"text": "a", "id": "\\ud800"}', 422, "$.id", "text of 1 characters", "well-formed"),
        (b'{"text": "a", "\\ud800": 1}', 422, "$", "the key '\xef\xbf\xbd'", "only text, id"),
        (b'{"tickets": {"text": "a"}}', 422, "$.tickets", "an object with the keys 'text'", "an array"),
        (b'{"tickets": []}', 422, "$.tickets", "an array of 0", "1 to 3 tickets"),
        (b'{"tickets": [1, 2, 3, 4]}', 422, "$.tickets", "an array of 4", "1 to 3 tickets"),
        (b'{"tickets": [{"text": "a"}, null]}', 422, "$.tickets[1]", "null", "an object"),
        (b'{"tickets": [{"text": "a"}], "text": "b"}', 422, "$", "the key 'text'", "only tickets"),
        (b'{"text": "123456789012345678901"}', 422, "$.text", "text of 21 characters", "at most 20"),
    ],
)
def test_a_body_that_is_no_request_is_explained(body, status, where, given, expected, hostile) -> None:
    service, _ = hostile
    found, answer, _ = service.request("POST", "/v1/triage", body, JSON)
    assert found == status
    problem = answer["error"]["problems"][0]
    given = given.encode("latin-1").decode() if "\xef" in given else given
    assert problem["where"] == where and given in problem["given"] and expected in problem["expected"]


@pytest.fixture(scope="module")
def hostile():
    """One service for all bodies: none of them may take it down."""
    predictor = GatedPredictor()
    service = RunningService(predictor, None, {"max_tickets": 3, "max_characters": 20, "max_body_bytes": 500_000})
    service.start()
    yield service, predictor
    assert service.post({"text": "still there"})[0] == 200
    assert predictor.batches == [["still there"]]
    service.server.stop()
    service.thread.join(60)


def test_every_mistake_is_named_at_once_and_long_lists_are_cut(run_service) -> None:
    service = run_service()
    _, answer, _ = service.post({"tickets": [{"text": 1, "id": 0.5}, "x", {"text": "good"}]})
    places = [problem["where"] for problem in answer["error"]["problems"]]
    assert places == ["$.tickets[0].text", "$.tickets[0].id", "$.tickets[1]"]
    _, answer, _ = service.post({"tickets": [None] * 50})
    assert len(answer["error"]["problems"]) == 20 and answer["error"]["more_problems"] == 30


@pytest.mark.parametrize("last", ['"text": "a"', '"k7": 0'])
def test_hundreds_of_thousands_of_keys_do_not_hold_up_the_others(run_service, last) -> None:
    # Comparing each with all others, or each with the right ones, would take minutes.
    body = "{" + "".join(f'"k{number}": 0, ' for number in range(250_000)) + last + "}"
    status, answer, _ = run_service().request("POST", "/v1/triage", body, JSON)
    assert (status, answer["error"].get("more_problems")) == ((422, 249_980) if "text" in last else (400, None))


def test_only_plain_json_is_read(run_service) -> None:
    service = run_service()
    body = b'{"text": "a"}'
    for headers in (
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {**JSON, "Content-Encoding": "gzip"},
    ):
        status, answer, _ = service.request("POST", "/v1/triage", body, headers)
        assert status == 415 and answer["error"]["problems"]
    assert service.request("POST", "/v1/triage", body, {"Content-Type": 'Application/JSON; charset="UTF-8"'})[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_before_it_is_whole(run_service, chunked) -> None:
    service = run_service(max_body_bytes=1000)
    with connect(service.port) as connection:
        if chunked:
            head = raw_request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            connection.sendall(head + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 2)
        else:
            connection.sendall(raw_request(b"x" * 10, length=10**15))
        # The client has not sent its body yet, and may read why it need not.
        answer = connection.recv(65536)
        while b"}" not in answer:
            answer += connection.recv(65536)
    assert b" 413 " in answer and b"at most 1,000 bytes" in answer
    assert service.post({"text": "a"})[0] == 200


def test_a_client_that_sends_everything_first_still_reads_the_refusal(run_service) -> None:
    service = run_service(max_body_bytes=1000)
    status, answer, _ = service.request("POST", "/v1/triage", b"x" * 5_000_000, JSON)
    assert status == 413 and answer["error"]["reason"] == "too large"

"""The HTTP side: `/v1/triage`, `/v1/schema`, `/health`, `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import Response

from triagekit import __version__
from triagekit.errors import did_you_mean
from triagekit.schema.json_schema import json_schema
from triagekit.service.access import AccessLog, notes_of
from triagekit.service.answers import JsonAnswer, RefusalAnswer
from triagekit.service.limits import ClientDisconnect, check_content, read_body
from triagekit.service.metrics import CONTENT_TYPE
from triagekit.service.problems import BodyProblem, Refusal, shown
from triagekit.service.service import ClientGone, TriageService
from triagekit.service.tickets import LONGEST_ID, read_request

TRIAGE = "/v1/triage"
ROUTES = {
    TRIAGE: "POST",
    "/v1/schema": "GET",
    "/health": "GET",
    "/health/live": "GET",
    "/metrics": "GET",
    "/openapi.json": "GET",
}

# FastAPI would hand paths, queries and exceptions to any OpenTelemetry provider of the process; they may quote tickets.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}

_TICKET = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "id": {"type": ["string", "integer", "null"], "maxLength": LONGEST_ID},
    },
    "required": ["text"],
    "additionalProperties": False,
}
_MANY = {
    "type": "object",
    "properties": {"tickets": {"type": "array", "items": _TICKET, "minItems": 1}},
    "required": ["tickets"],
    "additionalProperties": False,
}
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"oneOf": [_TICKET, _MANY]}}}}}


def build_application(service: TriageService, log_as_json: bool = False) -> FastAPI:
    """The ASGI application of a service. Its pages for browsers are off: they would load scripts from other sites."""
    app = FastAPI(title="triagekit", version=__version__, docs_url=None, redoc_url=None, telemetry=_NO_TELEMETRY)
    app.add_middleware(AccessLog, metrics=service.metrics, routes=frozenset(ROUTES), scored=TRIAGE, as_json=log_as_json)
    _add_errors(app)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: TriageService) -> None:
    @app.post(TRIAGE, summary="Tickets to records", openapi_extra=_BODY)
    async def triage(request: Request) -> Response:
        service.check_token(request.headers.get("authorization"))
        service.check_ready()
        check_content(request.headers)
        settings = service.settings
        body = await read_body(request, settings.max_body_bytes, settings.timeout_seconds)
        tickets = read_request(body, settings)
        notes_of(request.scope).update(bytes=len(body), tickets=len(tickets))
        answers = await service.answer(request, tickets)
        return JsonAnswer({**service.served.to_json(), "tickets": answers})

    @app.get("/v1/schema", summary="JSON Schema of a record")
    async def schema(request: Request) -> Response:
        service.check_token(request.headers.get("authorization"))
        if service.served.schema is None:
            service.check_ready()
        assert service.served.schema is not None
        return JsonAnswer(json_schema(service.served.schema))

    @app.get("/health", summary="200 when tickets are answered, else 503")
    async def health(request: Request) -> Response:
        state = service.batcher.state
        value: dict[str, Any] = {"alive": True, "ready": state == "ready", "state": state}
        # Load balancers ask without a token; which run it is, is not theirs to know.
        if service.is_allowed(request.headers.get("authorization")):
            value |= {"version": __version__, **service.served.to_json()}
        return JsonAnswer(value, 200 if state == "ready" else 503)

    @app.get("/health/live", summary="200 as long as the process answers")
    async def live() -> Response:
        return JsonAnswer({"alive": True})

    @app.get("/metrics", summary="Counts and durations for Prometheus")
    async def metrics(request: Request) -> Response:
        service.check_token(request.headers.get("authorization"))
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        notes_of(request.scope)["refused"] = refusal.reason.replace(" ", "_")
        return RefusalAnswer(refusal)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]
        if error.status_code == 405:
            problem = BodyProblem("method", shown(request.method), ROUTES.get(path, "another method"))
            refusal = Refusal(405, "method", "This route has another method.", [problem], dict(error.headers or {}))
        else:
            problem = BodyProblem("path", shown(path), did_you_mean(path, ROUTES))
            refusal = Refusal(error.status_code, "no such route", "There is nothing here.", [problem])
        return RefusalAnswer(refusal)

    @app.exception_handler(ClientGone)
    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        notes_of(request.scope)["gone"] = True
        return Response(status_code=204)

"""What a caller is told instead of an answer: one status and one sentence, never a value."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from adacomed.errors import InputError
from adacomed.serve.batching import ClosedError
from adacomed.serve.requests import in_words

LOG = logging.getLogger("adacomed.serve")
CLOSED_BY_CLIENT = 499  # nginx's number; nobody is there to read it
API = ("/v1/", "/healthz", "/readyz", "/metrics", "/openapi.json")
MOST = 600  # characters of a sentence
SENTENCES = {
    400: "the request cannot be read",
    404: "there is nothing under this address",
    405: "this address does not answer to that method",
    406: "this address has no answer of the type that was asked for",
}


class Refusal(Exception):  # noqa: N818 (an answer)
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        sentence: for the caller, without a patient's values.
        reason: one word for the metrics.
        headers: beside the usual ones.
    """

    def __init__(
        self, status: int, sentence: str, *, reason: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.reason = status, sentence, reason
        self.headers = dict(headers or {})


def refused(scope: Scope, refusal: Refusal) -> Response:
    """The response for a refusal: JSON `{"error": …}`, or a page for who asks for a page."""
    app = scope.get("app")
    state = getattr(app, "state", None)
    if (metrics := getattr(state, "metrics", None)) is not None:
        metrics.rejected.labels(refusal.reason).inc()
    if (page := getattr(state, "error_page", None)) is not None and wants_page(scope):
        response: Response = page(Request(scope), refusal.status, refusal.sentence)
        response.headers.update(refusal.headers)
        return response
    return JSONResponse(
        {"error": refusal.sentence}, status_code=refusal.status, headers=refusal.headers
    )


def wants_page(scope: Scope) -> bool:
    """Whether a browser asks for something that people look at."""
    if scope["path"].startswith(API):
        return False
    return "text/html" in HTTPConnection(scope).headers.get("accept", "")


def invalid(error: ValidationError) -> Refusal:
    """What is wrong with a JSON document, by where it is; never what stands there."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return Refusal(422, in_words(found)[:MOST], reason="invalid")


def our_fault(error: BaseException) -> Refusal:
    """Log where something of ours broke under an id, and give the caller the id alone.

    The log gets the error's type and the places in the code, never its message: libraries quote
    what they could not read.
    """
    mark = uuid.uuid4().hex[:12]
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)[-6:]
    ]
    LOG.error("error %s: %s at %s", mark, type(error).__name__, " < ".join(reversed(places)))
    sentence = f"something broke on our side; the server's log has it as {mark}"
    return Refusal(500, sentence, reason="error")


def from_any(error: BaseException) -> Refusal:
    """What any exception of a request means for its caller."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal(422, str(error)[:MOST], reason="input")
    if isinstance(error, ValidationError):
        return invalid(error)
    if isinstance(error, RequestValidationError):
        return Refusal(422, in_words(error.errors())[:MOST], reason="invalid")
    if isinstance(error, ClosedError):
        headers = {"Retry-After": "10"}
        return Refusal(503, "the service is stopping", reason="stopping", headers=headers)
    if isinstance(error, ClientDisconnect):
        return Refusal(CLOSED_BY_CLIENT, "the caller has gone", reason="gone")
    if isinstance(error, HTTPException):
        known = SENTENCES.get(error.status_code)
        sentence = known or str(error.detail)[:MOST]
        headers = error.headers if isinstance(error.headers, dict) else {}
        return Refusal(error.status_code, sentence, reason="http", headers=headers)
    return our_fault(error)


def say_no(app: FastAPI) -> None:
    """Give every exception that a route may raise its sentence, in place of the frameworks'."""

    async def answer(request: Request, error: Any) -> Response:
        return refused(request.scope, from_any(error))

    for kind in (
        Refusal,
        InputError,
        ValidationError,
        RequestValidationError,
        HTTPException,
        ClientDisconnect,
        ClosedError,
    ):
        app.add_exception_handler(kind, answer)

"""The one table from errors to statuses, and the one middleware that turns what was raised into an answer.

A protocol that words its errors in its own way has a `Dialect`; the path of a request says which one is spoken, so that
what is refused before any handler has seen it is worded right too.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from gateway import errors, events
from gateway.web.answers import Failed

STATUSES: Final[dict[type[errors.GatewayError], int]] = {
    errors.InvalidRequest: 400,
    errors.BodyTooSlow: 408,
    errors.NotAllowed: 403,
    errors.Unauthenticated: 401,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.NotServable: 409,
    errors.DoesNotFit: 507,
    errors.DocumentUnreadable: 422,
    errors.LimitReached: 429,
    errors.Overloaded: 429,
    errors.Unavailable: 503,
    errors.HubOffline: 403,
    errors.HubUnreachable: 503,
    errors.HubFailed: 502,
    errors.HubForbids: 403,
    errors.HubModelNotFound: 404,
    errors.HubRevisionNotFound: 404,
    errors.NothingToServe: 409,
    errors.PullConflict: 409,
    errors.PullInProgress: 409,
    errors.PullInterrupted: 503,
    errors.VolumeFull: 507,
    errors.VolumeUnwritable: 507,
    errors.AskUnavailable: 501,
    errors.KnowledgeBaseExists: 409,
    errors.KnowledgeDirUnsuitable: 500,
    errors.KnowledgeStoreFailed: 503,
    errors.IndexGone: 503,
    errors.WrongEmbeddingModel: 409,
    errors.KnowledgeBaseNotReady: 503,
    errors.KnowledgeImportFailed: 502,
    errors.ProviderError: 502,
    errors.ProviderNotFound: 400,
    errors.ProviderModelNotFound: 400,
    errors.ProviderRefused: 400,
    errors.ProviderBusy: 429,
    errors.ProviderUnavailable: 503,
    errors.ProviderTimeout: 504,
    errors.DeadlineExceeded: 504,
    errors.Internal: 500,
}
CHALLENGE: Final = 'Bearer realm="dropgate"'
DEFAULT_RETRY: Final = 1.0  # seconds, where a 429 or 503 knows nothing better

REQUEST_ID: Final = web.RequestKey("request_id", str)
TRACE_ID: Final = web.RequestKey("trace_id", str)  # where requests are traced
LINE: Final = web.RequestKey("line", dict[str, Any])  # what a handler adds to the request's one log line


def body(error: errors.GatewayError, status: int = 0) -> dict[str, Any]:
    """Our own wording, which needs no status."""
    wait = {} if error.retry_after is None else {"retry_after": round(error.retry_after, 3)}
    return {"error": {"code": error.code, "message": error.message, **wait, **error.details}}


class Dialect(msgspec.Struct, frozen=True):
    """How a protocol words what went wrong: `body` makes the document of an error and its status, `statuses` has those
    that differ from our own. It is spoken where `paths` matches the beginning of a path; `shape` is the document's
    type."""

    name: str
    paths: re.Pattern[str]
    body: Callable[[errors.GatewayError, int], Any]
    shape: Any
    statuses: Mapping[type[errors.GatewayError], int] = {}


NATIVE: Final = Dialect("Native", re.compile(""), body, Failed)


def status(error: errors.GatewayError, dialect: Dialect = NATIVE) -> int:
    """The status of the nearest type in the dialect's table or the common one."""
    tables = (dialect.statuses, STATUSES)
    return next(table[kind] for kind in type(error).__mro__ for table in tables if kind in table)


def answer(error: errors.GatewayError, dialect: Dialect = NATIVE) -> web.Response:
    code = status(error, dialect)
    content = orjson.dumps(dialect.body(error, code), default=str)
    response = web.Response(status=code, body=content, content_type="application/json")
    response.headers["X-Gateway-Error"] = error.code
    if code in {429, 503}:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after or DEFAULT_RETRY))
    if response.status == 408:
        response.force_close()  # the rest of it may yet come
    if response.status == 401:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def of_http(error: web.HTTPException) -> errors.GatewayError:
    """aiohttp's own refusals, in our shape."""
    match error:
        case web.HTTPNotFound():
            return errors.RouteNotFound("no such route; the README lists them")
        case web.HTTPMethodNotAllowed():
            return errors.MethodNotAllowed(f"this route takes {', '.join(sorted(error.allowed_methods))}")
        case web.HTTPRequestEntityTooLarge():
            return errors.BodyTooLarge("the body is over the limit")
        case _:
            return errors.InvalidBody(error.reason)


def middleware(tell: events.Events, dialects: Sequence[Dialect] = ()) -> Middleware:
    """Around every request: its id, its errors in the first of `dialects` that is spoken there, its one event."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        line: dict[str, Any] = {}
        request[LINE] = line
        request_id = request[REQUEST_ID] = _request_id(request)
        status_code = 499  # the client went away: nobody reads the answer
        try:
            try:
                response = await handler(request)
            except Exception as error:
                response = _failed(error, line, request_id, _spoken(request, dialects))
            status_code = response.status
            if not response.prepared:
                response.headers["X-Request-Id"] = request_id
            return response
        finally:
            tell.emit(
                events.RequestFinished(
                    request_id=request_id,
                    method=request.method,
                    route=route(request),
                    status=status_code,
                    seconds=time.monotonic() - began,
                    trace_id=request.get(TRACE_ID),
                    **line,
                )
            )

    return handle


def _spoken(request: web.Request, dialects: Sequence[Dialect]) -> Dialect:
    return next((dialect for dialect in dialects if dialect.paths.match(request.path)), NATIVE)


def _failed(error: Exception, line: dict[str, Any], request_id: str, dialect: Dialect) -> web.StreamResponse:
    """What a client is told of `error`, and what the log is."""
    match error:
        case errors.GatewayError():
            refusal = error
        case web.HTTPException() if error.status < 400:
            raise error
        case web.HTTPException():
            refusal = of_http(error)
        case web.RequestPayloadError():
            refusal = errors.InvalidBody(f"the body is not packed as its headers say: {one_line(error)}")
        case _:
            line["traceback"] = "".join(traceback.format_exception(error))
            refusal = errors.Internal(f"an error of the gateway's own; its log has it under {request_id}")
    line["code"] = refusal.code
    response = answer(refusal, dialect)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return response


class Complaints(logging.Handler):
    """What aiohttp itself logs, as notices: a connection that does not speak HTTP, and bugs outside the middleware."""

    def __init__(self, tell: events.Events) -> None:
        super().__init__(logging.WARNING)
        self._events = tell

    def emit(self, record: logging.LogRecord) -> None:
        match record.exc_info and record.exc_info[1]:
            case web.RequestPayloadError():
                return  # the request's own line has told it
            case HttpProcessingError() as error:
                self._events.emit(events.Notice(code="http_broken", message=one_line(error)))
            case _:
                self._events.emit(events.Notice(code="http_failed", message=logging.Formatter().format(record)))


def complaints(tell: events.Events) -> logging.Logger:
    """The logger of the HTTP server."""
    logger = logging.Logger("http", logging.WARNING)
    logger.addHandler(Complaints(tell))
    return logger


def one_line(error: object) -> str:
    return " ".join(str(error).split())


def _request_id(request: web.Request) -> str:
    """The client's, or one that nobody else has by chance: it is no secret, so it need not be hard to guess."""
    given = request.headers.get("X-Request-Id")
    if given and len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return f"{random.getrandbits(128):032x}"


def route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unmatched"

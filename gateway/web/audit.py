"""What the audit log is told: every request that uses or changes something, and every one that is refused entry."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.tenants.audit import Audit, Line
from gateway.web.asking import INPUTS
from gateway.web.errors import LINE, REQUEST_ID, route

LOOKING: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # uses and changes nothing
TURNED_AWAY: Final = frozenset({401, 403})
GONE: Final = 499  # the client, before it was answered
NAMES: Final = ("tenant", "key", "model", "generation", "alias", "texts", "tokens", "code")  # of the request's log line


def middleware(audit: Audit, *, texts: bool) -> Middleware:
    """Outside all others, so that it sees the answer that a client gets. `texts`: also what was asked for."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, status = time.monotonic(), GONE
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            if request.method not in LOOKING or status in TURNED_AWAY:
                audit.add(_line(request, status, time.monotonic() - began, texts=texts))

    return handle


def _line(request: web.Request, status: int, seconds: float, *, texts: bool) -> Line:
    known = request.get(LINE, {})
    inputs = request.get(INPUTS) if texts else None
    return Line(
        time=datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
        request_id=request.get(REQUEST_ID, ""),
        remote=request.remote or "",
        method=request.method,
        route=route(request),
        path=request.path,
        status=status,
        seconds=round(seconds, 6),
        inputs=None if inputs is None else list(inputs),
        **{name: known[name] for name in NAMES if name in known},
    )

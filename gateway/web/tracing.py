"""A span around every request but the probes; the middleware is there only where spans are collected."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.log import PROBES
from gateway.tracing import OUTGOING, Tracer, traceparent
from gateway.web.errors import LINE, REQUEST_ID, TRACE_ID, route

GONE: Final = 499  # the client, before it was answered
TRACE: Final = slice(3, 35)  # of a traceparent


def middleware(tracer: Tracer) -> Middleware:
    """Outside the one that answers errors, so that it sees the answer that a client gets."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        template = route(request)
        if template in PROBES:
            return await handler(request)
        span, status = tracer.begin(request.method, template, request.headers), GONE
        parent = traceparent(span)
        request[TRACE_ID] = parent[TRACE]
        token = OUTGOING.set(parent)
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            OUTGOING.reset(token)
            tracer.end(span, status, request.get(REQUEST_ID, ""), request.get(LINE, {}))

    return handle

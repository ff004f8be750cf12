"""Web pages of other origins: none may ask, but for those that the operator lists (https://fetch.spec.whatwg.org/).

A key goes in a header of the page's own making, never in a cookie, so no credentials are ever allowed. Where no key
is needed, what a browser sends from a foreign page, or to a name that a foreign name server has for us, is refused.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gateway.errors import ForeignOrigin

EXPOSED: Final = (
    "X-Request-Id, X-Model, X-Model-Generation, X-Model-Alias, X-Embedding-Shape, Retry-After, WWW-Authenticate"
)
METHODS: Final = "GET, POST, PUT, DELETE, HEAD"
MAX_AGE: Final = "600"  # seconds that a browser remembers a preflight
LOCAL: Final = "localhost"


class Pages:
    """`origins` may ask, and read the answers; `lenient` means that nobody checks what a request is called by."""

    def __init__(self, origins: str, *, lenient: bool) -> None:
        self._origins = frozenset(origin for origin in origins.split(",") if origin)
        self._lenient = lenient

    def preflight(self, request: web.Request) -> web.Response | None:
        """What a browser asks before a page may ask; it has no key with it."""
        wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or wanted is None or not self._is_listed(request):
            return None
        headers = {hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS, hdrs.ACCESS_CONTROL_MAX_AGE: MAX_AGE}
        if asked := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
        return web.Response(status=204, headers=headers)

    def refuse_foreign(self, request: web.Request) -> None:
        """For requests that need no key. Raises ForeignOrigin."""
        if self._lenient or self._is_listed(request):
            return
        origin, host = request.headers.get(hdrs.ORIGIN), request.headers.get(hdrs.HOST)
        if origin is not None and not is_local(_host(origin)):
            raise ForeignOrigin("a web page of another origin asks: --cors-origins lists those that may")
        if host and not is_called_local(host):
            raise ForeignOrigin(
                "without API keys this gateway answers to localhost alone: ask for it by that name, make a key with "
                "`gateway keys create`, or start it with --insecure"
            )

    async def sign(self, request: web.Request, response: web.StreamResponse) -> None:
        """On every answer, before its headers are sent."""
        if not self._origins:
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if self._is_listed(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED

    def _is_listed(self, request: web.Request) -> bool:
        return request.headers.get(hdrs.ORIGIN, "").lower() in self._origins


def is_local(host: str | None) -> bool:
    """Whether it is a name or an address that leads to this machine from this machine alone."""
    if host is None:
        return False
    if host == LOCAL or host.endswith("." + LOCAL):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(64)
def is_called_local(host: str) -> bool:
    """The same of a Host header, which has a port; clients send few different ones."""
    return is_local(_host(f"//{host}"))


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None

"""Who may come in: every request is given the service on behalf of whoever asks, or is refused before it is read.

What a caller may do, and with which models, is decided in the service, the same for every protocol.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from gateway.errors import Unauthenticated
from gateway.service import Service
from gateway.tenants.caller import NOBODY, OPEN, Caller
from gateway.tenants.keyring import Keyring
from gateway.tenants.limits import Account
from gateway.web.asking import SERVICE
from gateway.web.cors import Pages
from gateway.web.errors import LINE

HEALTH: Final = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
DESCRIPTION: Final = frozenset({"/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js"})  # the same for everybody
OPEN_TO_ALL: Final = HEALTH | DESCRIPTION
WAITING: Final = frozenset({"/events", "/console/live"})  # what only listens takes no place among requests at once
API_KEY: Final = "X-API-Key"


class Guard:
    """`open_paths` need no key, and are asked on behalf of nobody."""

    def __init__(self, keyring: Keyring, pages: Pages, open_paths: frozenset[str] = OPEN_TO_ALL) -> None:
        self.keyring = keyring
        self.pages = pages
        self._open_paths = open_paths

    def caller(self, request: web.Request) -> Caller:
        """Raises Unauthenticated or ForeignOrigin."""
        if request.path in self._open_paths or is_browsing(request):
            return NOBODY
        if not self.keyring.closed:
            self.pages.refuse_foreign(request)
            return OPEN
        text = key_of(request)
        if text is None:
            raise Unauthenticated("a key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
        found = self.keyring.find(text)
        if found is None:
            raise Unauthenticated("this key is none, or no more")
        return found


def middleware(service: Service, guard: Guard) -> Middleware:
    """Inside the one that answers errors."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        preflight = guard.pages.preflight(request)
        if preflight is not None:
            return preflight
        caller = guard.caller(request)
        if caller is not NOBODY:
            request[LINE].update(tenant=caller.tenant, key=caller.key or None)
        request[SERVICE] = service.on_behalf_of(caller)
        account = guard.keyring.account(caller)
        if account is None:
            return await handler(request)
        return await _within(account, request, handler)

    return handle


async def _within(account: Account, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tokens are charged when they have been counted, also for an answer that is then lost."""
    account.admit()
    if request.path in WAITING:
        return await handler(request)
    account.enter()
    try:
        return await handler(request)
    finally:
        account.leave()
        account.charge(request[LINE].get("tokens", 0))


def is_browsing(request: web.Request) -> bool:
    """Whether a person opens the console: the page is the same for everybody, and asks for the key itself."""
    return request.path == "/" and "text/html" in request.headers.get(hdrs.ACCEPT, "")


def key_of(request: web.Request) -> str | None:
    """What a client sends as its key; of the two headers the first one counts."""
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get(API_KEY) or None

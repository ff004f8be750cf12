"""`GET /events`: what happens, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

A reader that is slower than what happens loses the oldest events and is told how many; it never slows the gateway.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec
from aiohttp import web

from gateway.events import Event, Events
from gateway.tenants.caller import OPEN, Caller
from gateway.tenants.keyring import Keyring
from gateway.web.asking import SERVICE
from gateway.web.contract import says

KEYRING: Final = web.AppKey("keyring", Keyring)
EVENTS: Final = web.AppKey("events", Events)
STOPPING: Final = web.AppKey("stopping", asyncio.Event)
BACKLOG: Final = 1000
HEARTBEAT: Final = 15.0  # seconds between comments that keep proxies from closing a quiet stream
routes: Final = web.RouteTableDef()
_encoder: Final = msgspec.json.Encoder()


def seen(event: Event, caller: Caller) -> Event | None:
    """What a caller may know of an event: nothing of models that it does not see, and what is about no model at all is
    for those who see everything. What has an owner is for that tenant alone."""
    if isinstance(owner := getattr(event, "owner", None), str):
        return event if owner == caller.tenant else None
    if caller.unrestricted:
        return event
    if isinstance(model := getattr(event, "model", None), str):
        return event if caller.sees_path(model) else None
    if isinstance(models := getattr(event, "models", None), tuple):
        known = tuple(model for model in models if caller.sees_path(model))
        return msgspec.structs.replace(event, models=known) if known else None
    return None


class Backlog:
    """The newest `BACKLOG` events that one reader has not had."""

    def __init__(self, caller: Caller = OPEN) -> None:
        self._caller = caller
        self._waiting: deque[Event] = deque(maxlen=BACKLOG)
        self._lost = 0
        self._some = asyncio.Event()

    def add(self, event: Event) -> None:
        if event.public and (known := seen(event, self._caller)) is not None:
            self._lost += len(self._waiting) == BACKLOG
            self._waiting.append(known)
            self._some.set()

    async def take(self, patience: float) -> bytes:
        """What has happened since, as text of the stream; a comment when nothing has within `patience` seconds."""
        try:
            await asyncio.wait_for(self._some.wait(), patience)
        except TimeoutError:
            return b": nothing new\n\n"
        self._some.clear()
        parts = [f": {self._lost} events were lost to a slow reader\n\n".encode()] if self._lost else []
        self._lost = 0
        while self._waiting:
            event = self._waiting.popleft()
            parts.append(b"event: %s\ndata: %s\n\n" % (event.name.encode(), _encoder.encode(event)))
        return b"".join(parts)


@routes.get("/events")
@says(answer=str, media=("text/event-stream",))
async def events(request: web.Request) -> web.StreamResponse:
    """Model accepted, rejected, loaded, unloaded, swapped, and the rest, from now on; what the caller sees of it."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    caller, keyring = request[SERVICE].caller, request.app[KEYRING]
    backlog = Backlog(caller)
    unsubscribe = request.app[EVENTS].subscribe(backlog.add)
    try:
        await response.prepare(request)
        await response.write(b": listening\n\n")
        stopping = asyncio.ensure_future(request.app[STOPPING].wait())
        try:
            while not stopping.done():
                taking = asyncio.ensure_future(backlog.take(HEARTBEAT))
                await asyncio.wait({taking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    break
                if not keyring.holds(caller):
                    break  # the key is revoked, or may other things now
                await response.write(taking.result())
        finally:
            stopping.cancel()
    except ConnectionError:
        pass  # the reader has gone
    finally:
        unsubscribe()
    return response

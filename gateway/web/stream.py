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
from gateway.web.contract import says

EVENTS: Final = web.AppKey("events", Events)
STOPPING: Final = web.AppKey("stopping", asyncio.Event)
BACKLOG: Final = 1000
HEARTBEAT: Final = 15.0  # seconds between comments that keep proxies from closing a quiet stream
routes: Final = web.RouteTableDef()
_encoder: Final = msgspec.json.Encoder()


class Backlog:
    """The newest `BACKLOG` events that one reader has not had."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque(maxlen=BACKLOG)
        self._lost = 0
        self._some = asyncio.Event()

    def add(self, event: Event) -> None:
        if event.public:
            self._lost += len(self._waiting) == BACKLOG
            self._waiting.append(event)
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
    """Model accepted, rejected, loaded, unloaded, swapped, and the rest, from now on."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    backlog = Backlog()
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
                await response.write(taking.result())
        finally:
            stopping.cancel()
    except ConnectionError:
        pass  # the reader has gone
    finally:
        unsubscribe()
    return response

"""Server-sent events of one request, written as they are made (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One task makes them, and this one writes: so they are made within a deadline, silence is broken by comments, and a
client that reads slowly holds up nobody but itself. One that does not read at all is let go of, for what makes them has
a place that others want. Until the first is there a failure is an ordinary answer with its status; after that it is
told in the stream.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from aiohttp import web

from gateway.errors import DeadlineExceeded, GatewayError, Internal
from gateway.web import asking
from gateway.web.contract import EVENTS
from gateway.web.errors import LINE, REQUEST_ID

HEARTBEAT: Final = 15.0  # seconds of silence
COMMENT: Final = b": waiting\n\n"
PATIENCE: Final = 30.0  # seconds in which a client must take what is written
AHEAD: Final = 64  # events that may wait to be written
HEADERS: Final = {"Content-Type": EVENTS, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Events = AsyncGenerator[bytes]
Tell = Callable[[GatewayError], bytes]
_Queue = asyncio.Queue[bytes | Exception | None]


async def send(
    request: web.Request,
    made: Events,
    tell: Tell,
    *,
    seconds: float | None = None,
    heartbeat: float = HEARTBEAT,
    patience: float = PATIENCE,
    media: str = EVENTS,
) -> web.StreamResponse:
    """Writes all that is `made`, within `seconds`; `tell` words what fails on the way. Raises what fails before the
    first event. A client that does not take what is written within `patience` seconds is cut off. Other `media` than
    server-sent events know no comments."""
    queue: _Queue = asyncio.Queue(AHEAD)
    making = asyncio.create_task(_make(made, queue, seconds))
    silence = _Silence(queue, heartbeat if media == EVENTS else None)
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": media})
    try:
        whole = False
        while not whole:
            events = await _next(queue)
            whole = events[-1] is None
            said = _said(request, response, tell, events[:-1] if whole else events)
            if said and not response.prepared:
                await _prepare(request, response)
            async with _taken(request, patience):
                if whole and response.prepared:
                    await response.write_eof(said)  # in one piece with the end
                elif said:
                    await response.write(said)
            silence.broken()
    except ConnectionError:
        pass  # the reader has gone
    finally:
        silence.end()
        if not making.done():
            making.cancel()
            await asyncio.wait({making})
    return response


class _Silence:
    """Puts a comment into the queue where nothing was written for so many seconds; None: never."""

    def __init__(self, queue: _Queue, seconds: float | None) -> None:
        self._queue = queue
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.broken()
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._look)

    def broken(self) -> None:
        """Something was written just now."""
        self._since = self._loop.time()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        assert self._seconds is not None
        left = self._since + self._seconds - self._loop.time()
        if left <= 0:
            if self._queue.empty():
                self._queue.put_nowait(COMMENT)
            left = self._seconds
        self._timer = self._loop.call_later(left, self._look)


@asynccontextmanager
async def _taken(request: web.Request, patience: float) -> AsyncIterator[None]:
    """What is written is taken within so many seconds; else the connection is ended. Raises ConnectionError."""
    try:
        async with asyncio.timeout(patience):
            yield
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()  # closing it would wait for the client
        raise ConnectionAbortedError("the client does not read") from error


async def _prepare(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    asking.name_speaker(request, response)
    await response.prepare(request)


async def _make(made: Events, queue: _Queue, seconds: float | None) -> None:
    """The last thing in the queue is None, behind what went wrong, if anything did."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline, aclosing(made):
            async for event in made:
                await queue.put(event)
    except Exception as error:  # whoever reads the queue tells it
        is_late = isinstance(error, TimeoutError) and deadline.expired()  # and not another's deadline within
        await queue.put(DeadlineExceeded(f"no whole answer within {seconds:g} s") if is_late else error)
    await queue.put(None)


async def _next(queue: _Queue) -> list[bytes | Exception | None]:
    """The events that are there, or the next one; what comes together is written together."""
    events = [await queue.get()]
    while not queue.empty():
        events.append(queue.get_nowait())
    return events


def _said(
    request: web.Request, response: web.StreamResponse, tell: Tell, events: Sequence[bytes | Exception | None]
) -> bytes:
    """What is written of them. Raises what failed before there was anything to write."""
    said = b""
    for event in events:
        if isinstance(event, Exception):
            if not said and not response.prepared:
                raise event
            said += tell(_told(request, event))
        else:
            said += event or b""
    return said


def _told(request: web.Request, error: Exception) -> GatewayError:
    """What a client is told of what failed in mid-stream, and what the log is: the status was sent long ago."""
    if not isinstance(error, GatewayError):
        request[LINE]["traceback"] = "".join(traceback.format_exception(error))
        error = Internal(f"an error of the gateway's own; its log has it under {request[REQUEST_ID]}")
    request[LINE]["code"] = error.code
    return error

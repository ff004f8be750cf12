"""The listening end: connections up to a bound, and our own words for a client that does not speak HTTP.

Beyond the bound a connection is answered 429 before anything of it is read, and closed: descriptors never run out, so
hosts can always be started and models copied.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import orjson
from aiohttp import web

from gateway.errors import GatewayError, Internal, InvalidHttp, Overloaded
from gateway.web.errors import answer, body, one_line

BACKLOG: Final = 1024  # connections that the kernel holds until the loop turns
RESERVED: Final = 256  # descriptors for all that is not a client: hosts, copies, pulls
MOST: Final = 10_000  # connections, however many descriptors there are; each takes some kilobytes
LEAST: Final = 16
PARTING: Final = 1.0  # seconds that a client which is turned away has to read why
LINGERING: Final = 2.0  # seconds that the rest of a refused body is read and dropped, so that the answer arrives


def most_connections(wanted: int = 0) -> int:
    """What the limit of open files leaves for clients, and no more than is `wanted`, if anything is."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(LEAST, min(MOST, files - RESERVED)) if files != resource.RLIM_INFINITY else MOST
    return min(most, wanted) if wanted else most


class Connection(web.RequestHandler):
    """One client's. `ended` is called once it is gone. A request's line and headers have `header_seconds` to come, from
    the connection's start or the request's first byte; 0 is for ever. aiohttp has no such limit of its own."""

    __slots__ = ("_ended", "_header_seconds", "_heads", "_late")

    def __init__(
        self, server: web.Server, ended: Callable[[], None], *, header_seconds: float = 0.0, **options: Any
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._ended = ended
        self._header_seconds = header_seconds
        self._heads = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_count != self._heads:
            self._heads = self._request_count
            self._expect_nothing()
        elif self._late is None and self._waiter is not None and not self._waiter.done():  # idle, and half a head came
            self._expect_head()

    def _expect_head(self) -> None:
        if self._header_seconds:
            self._late = self._loop.call_later(self._header_seconds, self.force_close)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)
        self._ended()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp found wrong outside the middleware, in our shape; the log has it as a notice."""
        super().handle_error(request, status, exc, message)  # logs it, and raises where an answer has begun
        error: GatewayError = Internal("an error of the gateway's own; its log has it")
        if status < 500:
            error = InvalidHttp(f"this is not HTTP: {one_line(exc or message)}")
        response = answer(error)
        response.force_close()
        return response


class Turned(asyncio.Protocol):
    """A client that there is no room for. It is told so, and what it sends is dropped: to close at once would make its
    kernel drop the answer too."""

    def __init__(self, refusal: bytes) -> None:
        self._refusal = refusal
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        connection.write(self._refusal)
        connection.write_eof()
        self._end = asyncio.get_running_loop().call_later(PARTING, connection.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()


class Site(web.BaseSite):
    """Listens on `listener` for `runner`. `full` is called when the bound of `most` connections is reached;
    `options` are aiohttp's for a connection."""

    __slots__ = ("_full", "_listener", "_most", "_open", "_options", "_refusal")

    def __init__(
        self,
        runner: web.AppRunner,
        listener: socket.socket,
        *,
        most: int,
        full: Callable[[], None],
        **options: Any,
    ) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._listener = listener
        self._most = most
        self._full = full
        self._open = 0
        self._options = {"lingering_time": LINGERING, **options}
        self._refusal = _raw(Overloaded(f"{most} connections are open already", retry_after=1.0, connections=most))

    @property
    def name(self) -> str:
        return "http://{}:{}".format(*self._listener.getsockname()[:2])

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=self._listener, backlog=self._backlog)

    def _connect(self) -> asyncio.Protocol:
        server = self._runner.server
        if self._open >= self._most or server is None:
            return Turned(self._refusal)
        self._open += 1
        if self._open == self._most:
            self._full()
        return Connection(server, self._left, **self._options)

    def _left(self) -> None:
        self._open -= 1


def _raw(error: GatewayError) -> bytes:
    """An answer for a client whose request was not read."""
    response = answer(error)
    content = orjson.dumps(body(error))
    headers = {**response.headers, "Content-Length": str(len(content)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content

"""The listening end: what is over the bound is told so, and what is no HTTP is answered in the one shape."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway import events
from gateway.web import body, errors, server

HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE = 300.0  # only ends a test that hangs


class Listening:
    """A server with one route, for two connections; `told` has its notices."""

    MOST = 2
    SLOWEST = 0.05  # seconds: for what does not come at all

    def __init__(self, **limits: float) -> None:
        self.limits = limits
        self.fulls = 0
        self.told: list[events.Event] = []
        tell = events.Events()
        tell.subscribe(self.told.append)
        app = web.Application(middlewares=[broken, errors.middleware(tell)])
        app.router.add_get("/hello", self.hello)
        app.router.add_post("/echo", self.echo)
        app[body.SECONDS] = limits.pop("body_seconds", 0.0)
        self.runner = web.AppRunner(app, handler_cancellation=True)
        self.logger = errors.complaints(tell)

    async def hello(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def echo(self, request: web.Request) -> web.Response:
        return web.Response(body=await body.read(request))

    def full(self) -> None:
        self.fulls += 1

    async def start(self) -> None:
        await self.runner.setup()
        self.listener = socket.create_server(("127.0.0.1", 0))
        options: dict[str, Any] = {"access_log": None, "logger": self.logger, **self.limits}
        self.site = server.Site(self.runner, self.listener, most=self.MOST, full=self.full, **options)
        await self.site.start()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.listener.getsockname()[:2])

    async def connect_saying(self, said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection whose first bytes the server has not to wait for: they are there before the loop accepts it."""
        connection = socket.create_connection(self.listener.getsockname()[:2])
        connection.sendall(said)
        return await asyncio.open_connection(sock=connection)

    async def speak(self, said: bytes) -> tuple[bytes, dict[str, str], bytes]:
        """Status line, headers and body of what is answered to these bytes, up to its end."""
        reader, writer = await self.connect_saying(said)
        try:
            return parsed(await asyncio.wait_for(reader.read(), PATIENCE))
        finally:
            writer.close()


@web.middleware
async def broken(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A bug outside of the middleware that answers bugs."""
    if request.path == "/broken":
        raise KeyError("secret-detail")
    return await handler(request)


def parsed(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return status, dict(line.decode().split(": ", 1) for line in lines), content


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    made = Listening()
    await made.start()
    yield made
    await made.runner.cleanup()


async def held(listening: Listening) -> asyncio.StreamWriter:
    """A connection that has been answered and stays."""
    reader, writer = await listening.connect()
    writer.write(HELLO)
    assert (await asyncio.wait_for(reader.readuntil(b"hello"), PATIENCE)).startswith(b"HTTP/1.1 200")
    return writer


async def test_a_connection_over_the_bound_is_told_so_and_closed(listening: Listening) -> None:
    writers = [await held(listening), await held(listening)]
    assert listening.fulls == 1
    status, headers, content = await listening.speak(HELLO)
    assert status == b"HTTP/1.1 429 Too Many Requests"
    assert (headers["Retry-After"], headers["Connection"]) == ("1", "close")
    assert headers["Content-Length"] == str(len(content))
    error = json.loads(content)["error"]
    assert (error["code"], error["connections"]) == ("overloaded", 2)
    for writer in writers:
        writer.close()


async def test_a_connection_that_ends_makes_room_for_another(listening: Listening) -> None:
    first, second = await held(listening), await held(listening)
    first.close()
    await first.wait_closed()
    async with asyncio.timeout(PATIENCE):
        while (await listening.speak(HELLO.replace(b"Host", b"Connection: close\r\nHost")))[0] != b"HTTP/1.1 200 OK":
            await asyncio.sleep(0)
    second.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"this is no http\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_in_the_one_shape(listening: Listening, said: bytes) -> None:
    status, headers, content = await listening.speak(said)
    assert status.endswith(b" 400 Bad Request")
    assert headers["Content-Type"] == "application/json"
    error = json.loads(content)["error"]
    assert error["code"] == "invalid_http"
    assert "\n" not in error["message"]


async def test_a_bug_outside_the_middleware_is_a_500_that_says_nothing_of_it(listening: Listening) -> None:
    status, _, content = await listening.speak(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == b"HTTP/1.1 500 Internal Server Error"
    assert json.loads(content)["error"]["code"] == "internal"
    assert b"secret-detail" not in content
    notices = [event for event in listening.told if isinstance(event, events.Notice)]
    assert [notice.code for notice in notices] == ["http_failed"]
    assert "secret-detail" in notices[0].message


def test_the_bound_leaves_descriptors_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in [
        (1024, 1024 - server.RESERVED),
        (100, server.LEAST),
        (1 << 20, server.MOST),
        (server.resource.RLIM_INFINITY, server.MOST),
    ]:
        monkeypatch.setattr(server.resource, "getrlimit", lambda _, files=files: (files, files))
        assert server.most_connections() == most


def test_it_holds_on_the_loop_that_the_gateway_runs_on() -> None:
    async def run() -> None:
        made = Listening()
        await made.start()
        writers = [await held(made), await held(made)]
        assert (await made.speak(HELLO))[0] == b"HTTP/1.1 429 Too Many Requests"
        for writer in writers:
            writer.close()
        await made.runner.cleanup()

    uvloop.run(run())


async def limited(**limits: float) -> Listening:
    made = Listening(**limits)
    await made.start()
    return made


@pytest.mark.parametrize("said", [b"", b"GET /hel", b"GET /hello HTTP/1.1\r\nHost: x\r\n"])
async def test_a_client_whose_headers_do_not_come_is_cut_off(said: bytes) -> None:
    made = await limited(header_seconds=Listening.SLOWEST)
    reader, writer = await made.connect_saying(said)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""  # the close, whenever it comes
    writer.close()
    await made.runner.cleanup()


async def test_the_headers_of_a_second_request_must_come_too() -> None:
    made = await limited(header_seconds=Listening.SLOWEST)
    reader, writer = await made.connect_saying(HELLO + b"GET /hel")
    assert await asyncio.wait_for(reader.readuntil(b"hello"), PATIENCE)
    writer.write(b"lo")
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    await made.runner.cleanup()


async def test_an_idle_connection_is_not_waited_for_and_its_next_request_is_from_the_first_byte() -> None:
    made = await limited(header_seconds=PATIENCE)
    reader, writer = await made.connect()
    writer.write(HELLO)
    assert await asyncio.wait_for(reader.readuntil(b"hello"), PATIENCE)
    (connection,) = made.runner.server.connections  # type: ignore[union-attr]  # it has been set up
    assert isinstance(connection, server.Connection)
    assert connection._late is None
    writer.write(HELLO[:9])
    async with asyncio.timeout(PATIENCE):
        while connection._late is None:
            await asyncio.sleep(0)
    writer.write(HELLO[9:])
    assert await asyncio.wait_for(reader.readuntil(b"hello"), PATIENCE)
    assert connection._late is None
    writer.close()
    await made.runner.cleanup()


async def test_an_idle_connection_is_closed_when_its_time_is_up() -> None:
    made = await limited(keepalive_timeout=Listening.SLOWEST)
    reader, writer = await made.connect()
    writer.write(HELLO)
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"hello")
    writer.close()
    await made.runner.cleanup()


async def test_a_body_that_does_not_come_is_a_408_and_the_connection_is_closed() -> None:
    made = await limited(body_seconds=Listening.SLOWEST, lingering_time=0.0)
    answer = await made.speak(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
    status, headers, content = answer
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert headers["Connection"] == "close"
    assert json.loads(content)["error"]["code"] == "body_too_slow"
    await made.runner.cleanup()


async def test_a_body_that_comes_in_parts_is_read_whole() -> None:
    made = await limited(body_seconds=PATIENCE)
    reader, writer = await made.connect()
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n")
    for part in (b"abc", b"def", b"ghi"):
        writer.write(part)
        await writer.drain()
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"abcdefghi")
    writer.close()
    await made.runner.cleanup()


@pytest.mark.parametrize(("wanted", "most"), [(0, 10_000), (5, 5), (20_000, 10_000)])
def test_no_more_connections_are_open_than_are_wanted(wanted: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda which: (1_000_000, 1_000_000))
    assert server.most_connections(wanted) == most

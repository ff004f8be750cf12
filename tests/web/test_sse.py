"""Streams of events: what a client that does not read, and what fails on the way, does to what makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import events
from gateway.web import sse
from gateway.web.errors import middleware

Serve = Callable[[web.Application], Awaitable[TestServer]]
PATIENCE = 300.0  # only ends a test that hangs


class Endless:
    """Events without end, more than any buffer between two sockets takes."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def made(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                yield bytes(2**18)
                await asyncio.sleep(0)
        finally:
            self.ended.set()


async def test_a_client_that_does_not_read_is_let_go_of(aiohttp_server: Serve) -> None:
    endless = Endless()

    async def stream(request: web.Request) -> web.StreamResponse:
        return await sse.send(request, endless.made(), lambda error: b"", patience=0.01)

    app = web.Application(middlewares=[middleware(events.Events())])
    app.router.add_get("/", stream)
    server = await aiohttp_server(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await endless.ended.wait()
        try:
            while await reader.read(2**20):
                pass
        except ConnectionError:
            pass
        assert reader.at_eof() or reader.exception()
    writer.close()

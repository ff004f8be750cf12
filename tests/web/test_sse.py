"""Streams of events: what a client that does not read, and what fails on the way, does to what makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp
import pytest
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


async def serving(aiohttp_server: Serve, made: AsyncGenerator[bytes], **how: float | None) -> TestServer:
    """A server that answers with what is made, and with the code of what fails."""

    async def stream(request: web.Request) -> web.StreamResponse:
        return await sse.send(request, made, lambda error: error.code.encode(), **how)  # type: ignore[arg-type]  # by name

    app = web.Application(middlewares=[middleware(events.Events())])
    app.router.add_get("/", stream)
    return await aiohttp_server(app)


@pytest.mark.parametrize("seconds", [None, PATIENCE])
async def test_another_ones_deadline_is_not_the_clients(aiohttp_server: Serve, seconds: float | None) -> None:
    async def made() -> AsyncGenerator[bytes]:
        yield b"begun, "
        raise TimeoutError

    server = await serving(aiohttp_server, made(), seconds=seconds)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session,
        session.get(server.make_url("/")) as answer,
    ):
        assert await answer.read() == b"begun, internal"


async def test_a_client_that_does_not_read_is_let_go_of(aiohttp_server: Serve) -> None:
    endless = Endless()
    server = await serving(aiohttp_server, endless.made(), patience=0.01)
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

"""What is read of a request, and what its headers may say."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request

from gateway import events
from gateway.errors import InvalidHeader
from gateway.web import errors
from gateway.web.body import read, timeout

Client = TestClient[web.Request, web.Application]
LIMIT = 100_000


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await read(request))


@pytest.fixture
async def client(aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    app = web.Application(middlewares=[errors.middleware(events.Events())], client_max_size=LIMIT)
    app.router.add_post("/", echo)
    return await aiohttp_client(app)


@pytest.mark.parametrize("size", [0, 1, 1000, LIMIT])
async def test_a_body_within_the_limit_is_read_whole(client: Client, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    for _ in range(3):  # over one connection
        async with client.post("/", data=body) as answer:
            assert await answer.read() == body
    async with client.post("/", data=gzip.compress(body), headers={"Content-Encoding": "gzip"}) as answer:
        assert await answer.read() == body


async def test_a_body_that_comes_in_pieces_is_read_whole(client: Client) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 100

    async with client.post("/", data=pieces()) as answer:
        assert await answer.read() == b"".join(bytes([number]) * 100 for number in range(100))


async def test_a_body_over_the_limit_is_refused_whether_it_says_so_or_not(client: Client) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(LIMIT // 10)

    packed = gzip.compress(bytes(LIMIT + 1))
    for data, headers in ((bytes(LIMIT + 1), {}), (pieces(), {}), (packed, {"Content-Encoding": "gzip"})):
        async with client.post("/", data=data, headers=headers) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (413, "body_too_large")


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(client: Client) -> None:
    reader, writer = await connected(client)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def connected(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert client.port is not None
    return await asyncio.open_connection("127.0.0.1", client.port)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5", 5.0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("30s", 30.0),
        ("250ms", 0.25),
        (" 1.5 ", 1.5),
        ("999999999", 999999999.0),
    ],
)
def test_a_timeout_is_seconds_or_says_what_it_is(given: str, seconds: float) -> None:
    assert timeout(make_mocked_request("POST", "/", headers={"X-Request-Timeout": given})) == seconds


@pytest.mark.parametrize(
    "given", ["", "0", "0ms", "-1", "+1", "1e3", "nan", "inf", "5 s", "5m", "5S", "1,5", "1_0", "\u0665", "9" * 10]
)
def test_a_timeout_that_is_none_is_refused_and_names_the_header(given: str) -> None:
    with pytest.raises(InvalidHeader, match="seconds") as refused:
        timeout(make_mocked_request("POST", "/", headers={"X-Request-Timeout": given}))
    assert refused.value.details == {"header": "X-Request-Timeout"}


def test_without_the_header_the_settings_decide() -> None:
    assert timeout(make_mocked_request("POST", "/")) is None

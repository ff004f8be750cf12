"""`GET /events`: nothing is lost to a reader that keeps up, and a slow one loses the oldest and is told how many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from gateway import events
from gateway.web import stream
from gateway.web.stream import BACKLOG, Backlog

Client = TestClient[web.Request, web.Application]
PATIENCE = 60.0  # only ends a test that hangs


def removed(number: int) -> events.ModelRemoved:
    return events.ModelRemoved(model=f"finetuned/m{number}")


def models(text: bytes) -> list[str]:
    lines = [line for line in text.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: "))["model"] for line in lines]


async def test_events_come_in_order_each_with_its_name() -> None:
    backlog = Backlog()
    backlog.add(removed(0))
    backlog.add(events.ModelCopying(model="finetuned/m1"))
    assert await backlog.take(PATIENCE) == (
        b'event: model_removed\ndata: {"model":"finetuned/m0","generation":null}\n\n'
        b'event: model_copying\ndata: {"model":"finetuned/m1"}\n\n'
    )


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    backlog = Backlog()
    for number in range(BACKLOG + 7):
        backlog.add(removed(number))
    text = await backlog.take(PATIENCE)
    assert text.startswith(b": 7 events were lost to a slow reader\n\n")
    assert models(text) == [f"finetuned/m{number}" for number in range(7, BACKLOG + 7)]
    backlog.add(removed(1))
    assert b"lost" not in await backlog.take(PATIENCE)  # told once


async def test_a_full_backlog_that_lost_nothing_says_nothing() -> None:
    backlog = Backlog()
    for number in range(BACKLOG):
        backlog.add(removed(number))
    text = await backlog.take(PATIENCE)
    assert b"lost" not in text
    assert len(models(text)) == BACKLOG


async def test_what_is_not_public_is_not_streamed() -> None:
    backlog = Backlog()
    backlog.add(events.HostOutput(device="cpu", pid=1, line="a path of this machine"))
    assert await backlog.take(0.0) == b": nothing new\n\n"


async def test_a_reader_that_waits_is_woken_by_what_happens() -> None:
    backlog = Backlog()
    taking = asyncio.create_task(backlog.take(PATIENCE))
    await asyncio.sleep(0)
    backlog.add(removed(3))
    assert models(await taking) == ["finetuned/m3"]


class Source:
    """The route alone, and its events."""

    def __init__(self) -> None:
        self.events = events.Events()
        self.app = web.Application()
        self.app[stream.EVENTS] = self.events
        self.app[stream.STOPPING] = asyncio.Event()
        self.app.add_routes(stream.routes)


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def client(source: Source, aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    return await aiohttp_client(source.app)


async def test_a_stream_ends_when_the_gateway_stops(source: Source, client: Client) -> None:
    async with client.get("/events") as answer:
        assert await answer.content.readuntil(b"\n\n") == b": listening\n\n"
        source.events.emit(removed(5))
        assert models(await answer.content.readuntil(b"\n\n")) == ["finetuned/m5"]
        source.app[stream.STOPPING].set()
        assert await asyncio.wait_for(answer.content.read(), PATIENCE) == b""


async def test_every_reader_gets_every_event(source: Source, client: Client) -> None:
    async with client.get("/events") as one, client.get("/events") as other:
        for answer in (one, other):
            await answer.content.readuntil(b"\n\n")
        source.events.emit(removed(1))
        source.events.emit(removed(2))
        for answer in (one, other):
            seen: list[str] = []
            while len(seen) < 2:
                seen += models(await answer.content.readuntil(b"\n\n"))
            assert seen == ["finetuned/m1", "finetuned/m2"]
        source.app[stream.STOPPING].set()

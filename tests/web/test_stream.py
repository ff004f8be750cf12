"""`GET /events`: nothing is lost to a reader that keeps up, and a slow one loses the oldest and is told how many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from aiohttp.typedefs import Handler, Middleware

from gateway import events
from gateway.tenants.caller import OPEN, Caller
from gateway.tenants.keyring import Keyring
from gateway.web import stream
from gateway.web.asking import SERVICE
from gateway.web.stream import BACKLOG, Backlog, seen

Client = TestClient[web.Request, web.Application]
PATIENCE = 300.0  # only ends a test that hangs


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


class Asker:
    """As much of a service as the route needs."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller


class Source:
    """The route alone, and its events."""

    def __init__(self) -> None:
        self.events = events.Events()
        self.caller = OPEN
        self.keyring = Keyring("/no/such/file", self.events)
        self.app = web.Application(middlewares=[self.on_behalf])
        self.app[stream.KEYRING] = self.keyring
        self.app[stream.EVENTS] = self.events
        self.app[stream.STOPPING] = asyncio.Event()
        self.app.add_routes(stream.routes)

    @property
    def on_behalf(self) -> Middleware:
        @web.middleware
        async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[SERVICE] = Asker(self.caller)  # type: ignore[misc]  # the route asks for nothing else of it
            return await handler(request)

        return handle


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


MINE = Caller(tenant="a", key="0", role="operate", namespaces=("a",))


@pytest.mark.parametrize(
    ("event", "known"),
    [
        (events.ModelRemoved(model="a/m"), True),
        (events.ModelRemoved(model="a/m/3"), True),
        (events.ModelRemoved(model="b/m"), False),
        (events.ModelRemoved(model="m"), False),
        (events.AliasesChanged(aliases=("a/prod",)), False),
        (events.HostStarted(device="cpu", pid=1, budget=1, seconds=0), False),
        (events.Stopping(why="SIGTERM", seconds=1), False),
    ],
)
def test_a_tenant_hears_of_its_own_models_and_of_nothing_else(event: events.Event, known: bool) -> None:
    assert seen(event, MINE) == (event if known else None)
    assert seen(event, OPEN) == event


def test_a_tenant_does_not_hear_who_else_has_the_same_content() -> None:
    loaded = events.GenerationLoaded(generation="d", models=("b/m", "a/m", "m"), device="cpu", bytes=1, seconds=0)
    assert seen(loaded, MINE) == msgspec.structs.replace(loaded, models=("a/m",))
    assert seen(msgspec.structs.replace(loaded, models=("b/m",)), MINE) is None
    assert seen(msgspec.structs.replace(loaded, models=()), MINE) is None


def test_what_a_tenant_may_not_hear_takes_no_place_in_its_backlog() -> None:
    backlog = Backlog(MINE)
    for _ in range(BACKLOG + 1):
        backlog.add(events.ModelRemoved(model="b/m"))
    backlog.add(events.ModelRemoved(model="a/m"))
    assert (backlog._lost, len(backlog._waiting)) == (0, 1)


async def test_a_stream_ends_when_its_key_is_held_no_more(source: Source, client: Client) -> None:
    source.caller = MINE  # whose key the keyring does not have
    async with client.get("/events") as answer:
        assert await answer.content.readuntil(b"\n\n") == b": listening\n\n"
        source.events.emit(events.ModelRemoved(model="a/m"))
        assert await asyncio.wait_for(answer.content.read(), PATIENCE) == b""


def test_what_becomes_of_a_knowledge_base_is_told_to_its_tenant_alone() -> None:
    event = events.ReindexStarted(kb="papers", owner="a", model="a/m", generation="abc", previous=None)
    assert seen(event, Caller(tenant="a", namespaces=("a",))) == event
    assert seen(event, Caller(tenant="b")) is None
    assert seen(event, OPEN) is None
    own = msgspec.structs.replace(event, owner="")
    assert seen(own, OPEN) == own

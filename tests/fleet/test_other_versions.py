"""Replicas that another version deployed speak otherwise, which costs no gateway its life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import events
from gateway.cluster.engine import RayEngine
from gateway.cluster.messages import Event, Happened, Need, State
from gateway.errors import GatewayError, Internal, Overloaded
from gateway.host import wire
from gateway.wish import AUTO, Wish
from tests import making

PATIENCE = 300.0
STRANGE = b"\x81\xa4name\xa1a"  # {"name": "a"}


class Fleet:
    """Tells what it is given to tell, one after the other, and the last for ever."""

    def __init__(self, *states: list[bytes] | Exception, replies: Sequence[bytes] = ()) -> None:
        self._states = list(states)
        self._replies = list(replies)
        self.followed = 0

    async def join(self, *, again: bool = False) -> None:
        pass

    async def call(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> tuple[bytes, wire.Payload]:
        return self._replies.pop(0), b""

    async def stream(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> AsyncIterator[bytes]:
        yield self._replies.pop(0)

    async def follow(self, gateway: str, told: Mapping[str, int]) -> list[bytes]:
        self.followed += 1
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(state, Exception):
            raise state
        return state

    async def keep(self, gateway: str, version: int, live: Collection[str], pinned: Collection[str]) -> None:
        pass

    async def unload(self, digest: str) -> None:
        pass

    async def leave(self) -> None:
        pass


def state(name: str, *happened: Happened) -> bytes:
    return wire.encoder.encode(
        State(
            name=name,
            life=name,
            up=True,
            pid=1,
            restarts=0,
            reported=0.0,
            residency=wire.Residency([], 0, 100, 0, 0),
            version=0,
            told=len(happened),
            happened=list(happened),
        )
    )


@asynccontextmanager
async def following(
    fleet: Fleet,
) -> AsyncIterator[tuple[RayEngine, list[events.Event], Callable[[int], Awaitable[None]]]]:
    """An engine, what it tells, and what waits until it has looked so often."""
    bus, told = events.Events(), list[events.Event]()
    bus.subscribe(told.append)
    engine = RayEngine(
        fleet,
        bus,
        names=lambda digest: (),
        sources=lambda digest: (),
        predict=lambda generation: 1,
        wish=lambda generation: Wish(AUTO, AUTO),
        weight=lambda digest: 1.0,
        patience=PATIENCE,
    )
    task = asyncio.create_task(engine.follow())

    async def looked(times: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while fleet.followed < times and not task.done():
                await asyncio.sleep(0.01)
        assert not task.done()

    try:
        yield engine, told, looked
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_replica_that_is_not_understood_is_not_there_and_that_is_told_once() -> None:
    async with following(Fleet([STRANGE, state("b")])) as (engine, told, looked):
        await looked(3)
        assert [device.device for device in engine.devices()] == ["b"]
        [notice] = told
        assert isinstance(notice, events.Notice)
        assert notice.code == "replica_not_understood"


async def test_an_event_that_is_not_understood_takes_nothing_from_the_next_one() -> None:
    strange = Event("host_exited", {"device": "cpu", "pid": "none"}), Event("host_output", {"pid": 1, "line": "x"})
    good = Event("host_output", {"device": "cpu", "pid": 1, "line": "after it"})
    async with following(Fleet([state("b", *strange, good)])) as (_, told, looked):
        await looked(2)
        assert told == [events.HostOutput(device="b", pid=1, line="after it")]


@pytest.mark.parametrize("error", [Overloaded("all are busy", retry_after=1.0), Internal("ValueError in a replica")])
async def test_replicas_that_refuse_to_tell_are_asked_again(error: GatewayError) -> None:
    async with following(Fleet(error, [state("b")])) as (engine, _, looked):
        await looked(3)
        assert engine.ready


async def test_an_answer_that_is_not_understood_is_asked_of_another_replica(tmp_path: Path) -> None:
    generation = making.generation(making.encoder(str(tmp_path / "a"), seed=1))
    fleet = Fleet([state("b")], replies=[STRANGE, wire.encoder.encode(wire.Done(0))])
    async with following(fleet) as (engine, _, _):
        await asyncio.wait_for(engine.load(generation), PATIENCE)

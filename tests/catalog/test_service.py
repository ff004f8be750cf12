"""The verbs where a running gateway gives no hold: a generation that is replaced before a request's load has begun."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from gateway.errors import DeadlineExceeded, GenerationNotFound, LoadFailed
from gateway.model import ModelId
from gateway.requests import EmbedRequest
from gateway.service import Service
from gateway.tenants.caller import Caller
from gateway.volume.pulls import Pulls
from tests.catalog.world import M, World

ASKED = EmbedRequest(texts=["a beam"], model=M)


def service(world: World) -> Service:
    tell = world.events
    pulls = Pulls(world.settings, tell, spawn=world.spawn, look_again=lambda: None)
    return Service(world.catalog, world.engine, pulls, world.settings)


async def test_a_request_whose_generation_is_replaced_before_it_is_loaded_is_answered_by_the_new_one(
    world: World, made: list[str]
) -> None:
    old, new = await world.swap(*made[:2])
    await world.catalog.rollback(ModelId.of(M))
    world.engine.withdraws[old.digest] = lambda: world.catalog.rollback(ModelId.of(M), new.short)
    found: list[str] = []
    embedding = await service(world).embed(ASKED, lambda each: found.append(each.generation.short))
    assert embedding.generation == new
    assert found == [old.short, new.short]


async def test_a_load_that_fails_with_nothing_newer_there_is_told(world: World, made: list[str]) -> None:
    await world.swap(made[0])
    world.engine.failure = LoadFailed("no room")
    with pytest.raises(LoadFailed, match="no room"):
        await service(world).embed(ASKED)


async def test_waiting_for_a_swap_ends_with_the_deadline(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path, swap_policy="resource", request_timeout=0.01)
    world.engine.roomy = False
    (old,) = await world.swap(made[0])
    await world.engine.load(old)
    world.engine.gate.clear()
    world.engine.loading.clear()
    world.put(made[1])
    world.see()
    await world.engine.begins()
    with pytest.raises(DeadlineExceeded):
        await service(world).embed(ASKED)
    world.engine.gate.set()
    await world.quiet()


@pytest.mark.parametrize(("wanted", "seconds"), [(None, 30.0), (5.0, 5.0), (31.0, 30.0)])
async def test_a_client_may_wait_for_less_than_the_settings_allow_and_never_for_more(
    tmp_path: Path, made: list[str], wanted: float | None, seconds: float
) -> None:
    world = World(tmp_path, request_timeout=30.0)
    await world.swap(made[0])
    began = asyncio.get_running_loop().time()
    await service(world).embed(msgspec.structs.replace(ASKED, timeout=wanted))
    ended = asyncio.get_running_loop().time()
    (deadline,) = world.engine.deadlines
    assert deadline is not None
    assert began + seconds <= deadline <= ended + seconds


async def test_a_client_that_waits_no_longer_is_answered_so(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path, request_timeout=3600.0)
    await world.swap(made[0])
    world.engine.gate.clear()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
        await service(world).embed(msgspec.structs.replace(ASKED, timeout=0.01))
    world.engine.gate.set()


async def test_a_rollback_is_asked_for_by_any_spelling_and_refused_without_costing_the_live_generation(
    world: World, made: list[str]
) -> None:
    old, new = await world.swap(*made[:2])
    assert await service(world).rollback("m", old.short[:8]) == ModelId.of(M)
    with pytest.raises(GenerationNotFound):
        await service(world).rollback("m", "ffffff")
    assert world.find() == old
    assert new.short in world.shown()["previous"]


async def test_a_request_rides_in_the_flow_of_its_callers_tenant(world: World, made: list[str]) -> None:
    await world.swap(made[0])
    everybodys = service(world)
    for tenant in ("a", "b"):
        await everybodys.on_behalf_of(Caller(tenant=tenant, key=tenant)).embed(ASKED)
    await everybodys.embed(ASKED)
    assert world.engine.flows == ["a", "b", ""]


async def test_callers_share_what_is_counted_and_drained(world: World, made: list[str]) -> None:
    await world.swap(made[0])
    everybodys = service(world)
    mine = everybodys.on_behalf_of(Caller(tenant="a", key="a"))
    world.engine.gate.clear()
    world.engine.loading.clear()
    asking = asyncio.create_task(mine.embed(ASKED))
    await world.engine.begins()
    assert not everybodys.quiet
    draining = asyncio.create_task(everybodys.drain())
    await asyncio.sleep(0)
    assert mine.draining
    assert not draining.done()
    world.engine.gate.set()
    await asking
    await draining
    assert everybodys.served == mine.served == 1

"""The verbs where a running gateway gives no hold: a generation that is replaced before a request's load has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import DeadlineExceeded, GenerationNotFound, LoadFailed
from gateway.model import ModelId
from gateway.service import EmbedRequest, Service
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


async def test_a_rollback_is_asked_for_by_any_spelling_and_refused_without_costing_the_live_generation(
    world: World, made: list[str]
) -> None:
    old, new = await world.swap(*made[:2])
    assert await service(world).rollback("m", old.short[:8]) == ModelId.of(M)
    with pytest.raises(GenerationNotFound):
        await service(world).rollback("m", "ffffff")
    assert world.find() == old
    assert new.short in world.shown()["previous"]

"""The old generation while the new one is tried; and what frees a generation that could not be loaded."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from gateway import events
from gateway.errors import LoadFailed, ModelNotFound
from gateway.model import ModelId
from tests.catalog.world import M, World


@pytest.fixture
async def narrow(tmp_path: Path) -> World:
    """A device that has room for one generation, under the policy that has the old one make way."""
    world = World(tmp_path, swap_policy="resource")
    world.engine.roomy = False
    return world


async def test_where_both_do_not_fit_the_old_one_goes_first_and_requests_wait_for_the_new_one(
    narrow: World, made: list[str]
) -> None:
    (old,) = await narrow.swap(made[0])
    await narrow.engine.load(old)
    narrow.engine.gate.clear()
    narrow.engine.loading.clear()
    narrow.put(made[1])
    narrow.see()
    await narrow.engine.begins()
    assert old.digest not in narrow.engine.loaded
    asked = asyncio.ensure_future(narrow.ask())
    await asyncio.sleep(0)
    assert not asked.done()
    narrow.engine.gate.set()
    found = await asked
    assert found.generation != old
    assert found.generation.digest in narrow.engine.loaded


async def test_who_waited_for_a_version_that_has_gone_meanwhile_is_told_so(narrow: World, made: list[str]) -> None:
    (old,) = await narrow.swap(made[0], path=f"{M}/1")
    await narrow.engine.load(old)
    narrow.engine.gate.clear()
    narrow.engine.loading.clear()
    narrow.put(made[1], f"{M}/2")
    narrow.see()
    await narrow.engine.begins()
    asked = asyncio.ensure_future(narrow.ask(f"{M}/1"))
    await asyncio.sleep(0)
    assert not asked.done()
    shutil.rmtree(narrow.root / M / "1")
    narrow.see()
    narrow.engine.gate.set()
    with pytest.raises(ModelNotFound):
        await asked
    await narrow.quiet()
    assert (await narrow.ask()).generation != old


async def test_when_the_new_one_fails_the_old_one_is_loaded_again_and_answers(narrow: World, made: list[str]) -> None:
    (old,) = await narrow.swap(made[0])
    await narrow.engine.load(old)
    narrow.catalog.pin(ModelId.of(M), True)
    narrow.engine.bad = {1}
    narrow.put(made[1])
    await narrow.look()
    assert (await narrow.ask()).generation == old
    assert old.digest in narrow.engine.loaded
    assert narrow.engine.pinned == {old.digest}
    assert narrow.engine.unloads == [old.short]
    assert [reason["code"] for reason in narrow.shown()["reasons"]] == ["load_failed"]


async def test_a_pin_does_not_hold_the_old_one_while_the_new_one_needs_its_room(narrow: World, made: list[str]) -> None:
    (old,) = await narrow.swap(made[0])
    await narrow.engine.load(old)
    narrow.catalog.pin(ModelId.of(M), True)
    narrow.engine.gate.clear()
    narrow.engine.loading.clear()
    narrow.put(made[1])
    narrow.see()
    await narrow.engine.begins()
    assert narrow.engine.pinned == set()
    narrow.engine.gate.set()
    await narrow.quiet()
    assert narrow.engine.pinned == {narrow.find().digest} != {old.digest}


@pytest.mark.parametrize(
    ("policy", "roomy", "loaded"), [("availability", False, True), ("resource", True, True), ("resource", False, False)]
)
async def test_otherwise_the_old_one_stays_and_answers_meanwhile(
    tmp_path: Path, made: list[str], policy: str, roomy: bool, loaded: bool
) -> None:
    world = World(tmp_path, swap_policy=policy)
    world.engine.roomy = roomy
    (old,) = await world.swap(made[0])
    if loaded:
        await world.engine.load(old)
    world.engine.gate.clear()
    world.engine.loading.clear()
    world.put(made[1])
    world.see()
    await world.engine.begins()
    assert (await world.ask()).generation == old
    world.engine.gate.set()
    await world.quiet()
    assert world.engine.unloads == []


async def test_a_rollback_makes_way_in_the_same_manner(narrow: World, made: list[str]) -> None:
    old, new = await narrow.swap(*made[:2])
    assert new.digest in narrow.engine.loaded
    await narrow.catalog.rollback(ModelId.of(M))
    assert narrow.engine.unloads == [new.short]
    assert (await narrow.ask()).generation == old


async def test_a_generation_that_could_not_be_loaded_is_listed_with_reason_and_quarantine_and_any_change_frees_it(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    live = world.find()
    told = {"generation": live.short, "models": (M,)}
    world.emit(events.LoadFailed(device="cpu", code="load_failed", message="no room", retry_after=1.0, **told))
    world.engine.quarantine[live.digest] = 59.96
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["load_failed"]
    assert "no room" in world.shown()["reasons"][0]["message"]
    assert world.shown()["quarantine"] == 60.0
    assert world.shown()["generation"] == live.short
    await world.look()
    assert world.engine.loads == []
    os.utime(world.root / M / "config.json", (1, 1))
    await world.look()
    assert world.engine.loads == [live.short]


async def test_a_load_that_fails_again_after_a_change_ends_nothing(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    world.engine.quarantine[world.find().digest] = 60.0
    world.engine.failure = LoadFailed("still no room")
    os.utime(world.root / M / "config.json", (1, 1))
    await world.look()
    assert world.shown()["state"] == "ready"
    assert world.find()

"""An earlier generation is live again without a restart, and stays until something newer is dropped."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from gateway import events
from gateway.errors import GenerationNotFound, LoadFailed
from gateway.model import ModelId
from tests.catalog.world import M, World

MODEL = ModelId.of(M)


async def test_without_a_target_the_generation_before_is_loaded_beside_the_live_one_and_goes_live(
    world: World, made: list[str]
) -> None:
    old, new = await world.swap(*made[:2])
    await world.engine.load(new)
    world.engine.gate.clear()
    world.engine.loading.clear()
    going_back = asyncio.ensure_future(world.catalog.rollback(MODEL))
    await world.engine.begins()
    assert world.find() == new
    assert set(world.engine.live) == {old.digest, new.digest}
    world.engine.gate.set()
    await going_back
    await world.quiet()
    assert world.find() == old
    assert set(world.engine.live) == set(world.engine.loaded) == {old.digest}
    assert world.shown()["previous"] == [new.short]
    assert world.shown()["rolled_back_from"] == [new.short]
    (told,) = world.heard(events.ModelRolledBack)
    assert (told.model, told.generation, told.previous, told.breaking) == (M, old.short, new.short, False)


async def test_it_sticks_over_looks_touches_equal_copies_and_restarts(world: World, made: list[str]) -> None:
    old, new = await world.swap(*made[:2])
    await world.catalog.rollback(MODEL)
    await world.look()
    os.utime(world.root / M / "config.json", (1, 1))
    await world.look()
    world.put(made[1])
    await world.look()
    assert world.find() == old
    again = await world.restarted()
    await again.look()
    assert again.find() == old
    assert again.shown()["rolled_back_from"] == [new.short]
    os.utime(world.root / M / "config.json", (2, 2))
    await again.look()
    assert again.find() == old
    assert again.heard(events.ModelSwapped) == []
    assert world.store.digests() == {old.digest, new.digest}


async def test_a_newer_drop_ends_it_and_the_content_that_was_rolled_back_from_may_come_back_as_one(
    world: World, made: list[str]
) -> None:
    await world.swap(*made[:2])
    await world.catalog.rollback(MODEL)
    newer, returned = await world.swap(made[2], made[1])
    assert newer.short == world.heard(events.ModelSwapped)[-1].previous
    assert returned == world.find()
    assert world.shown()["rolled_back_from"] == []


async def test_forward_works_as_back_does(world: World, made: list[str]) -> None:
    old, new = await world.swap(*made[:2])
    await world.catalog.rollback(MODEL)
    await world.catalog.rollback(MODEL, new.short)
    assert world.find() == new
    assert world.shown()["previous"] == [old.short]
    assert world.shown()["rolled_back_from"] == []
    os.utime(world.root / M / "config.json", (1, 1))
    await world.look()
    assert world.find() == new


async def test_without_a_target_the_second_time_goes_one_further_back_and_never_to_what_is_newer(
    world: World, made: list[str]
) -> None:
    first, second, third = await world.swap(*made[:3])
    await world.catalog.rollback(MODEL)
    assert world.find() == second
    await world.catalog.rollback(MODEL)
    assert world.find() == first
    with pytest.raises(GenerationNotFound) as failure:
        await world.catalog.rollback(MODEL)
    assert failure.value.details["generations"] == [third.short, second.short, first.short]
    assert world.find() == first


async def test_the_same_target_twice_is_once(world: World, made: list[str]) -> None:
    old, _ = await world.swap(*made[:2])
    await world.catalog.rollback(MODEL, old.short)
    await world.catalog.rollback(MODEL, old.short)
    assert world.find() == old
    assert len(world.heard(events.ModelRolledBack)) == 1


async def test_an_unknown_generation_is_refused_with_those_that_are_there(world: World, made: list[str]) -> None:
    old, new = await world.swap(*made[:2])
    for target in ("ffffff", old.short):
        world.store.remove(old.digest)  # the second one is known, and the disk has lost it
        with pytest.raises(GenerationNotFound) as failure:
            await world.catalog.rollback(MODEL, target)
        assert new.short in failure.value.details["generations"]
    assert failure.value.details["generations"] == [new.short]
    assert world.find() == new


async def test_a_target_that_does_not_load_changes_nothing_and_says_why(world: World, made: list[str]) -> None:
    _, new = await world.swap(*made[:2])
    world.engine.failure = LoadFailed("the probe found no finite number")
    with pytest.raises(LoadFailed, match="no finite number"):
        await world.catalog.rollback(MODEL)
    await world.quiet()
    assert world.find() == new
    assert set(world.engine.live) == {new.digest}
    assert world.heard(events.ModelRolledBack) == []
    assert world.shown()["rolled_back_from"] == []


async def test_a_caller_that_leaves_does_not_stop_it(world: World, made: list[str]) -> None:
    old, _ = await world.swap(*made[:2])
    world.engine.gate.clear()
    world.engine.loading.clear()
    asked = asyncio.ensure_future(world.catalog.rollback(MODEL))
    await world.engine.begins()
    asked.cancel()
    await asyncio.wait({asked})
    world.engine.gate.set()
    await world.quiet()
    assert world.find() == old


async def test_what_was_asked_for_while_newer_content_was_loading_wins_over_it(world: World, made: list[str]) -> None:
    """Whoever goes back wants what is live now to go away, and not what comes next to take its place."""
    old, _ = await world.swap(*made[:2])
    world.engine.gate.clear()
    world.engine.loading.clear()
    world.put(made[2])
    world.see()
    await world.engine.begins()
    asked = asyncio.ensure_future(world.catalog.rollback(MODEL))
    await asyncio.sleep(0)
    world.engine.gate.set()
    await asked
    await world.look()
    assert world.find() == old
    assert len(world.shown()["rolled_back_from"]) == 1


async def test_going_back_to_another_dimension_is_breaking(world: World, made: list[str], wide: str) -> None:
    await world.swap(made[0], wide)
    assert world.shown()["previous_breaking"] is True
    await world.catalog.rollback(MODEL)
    assert [told.breaking for told in world.heard(events.ModelRolledBack)] == [True]
    assert (await world.restarted()).shown()["previous_breaking"] is True


async def test_broken_content_after_a_rollback_leaves_the_old_generation(world: World, made: list[str]) -> None:
    old, _ = await world.swap(*made[:2])
    await world.catalog.rollback(MODEL)
    (world.root / M / "config.json").write_text("{")
    await world.look()
    assert world.find() == old
    shutil.rmtree(world.root / M)
    await world.look()
    assert world.catalog.listing() == []


async def test_earlier_generations_over_the_budget_go_oldest_first_and_live_ones_never(
    tmp_path: Path, made: list[str]
) -> None:
    size = sum(file.stat().st_size for file in Path(made[0]).rglob("*") if file.is_file())
    world = World(tmp_path, keep=9, generations_budget=2 * size)
    a = await world.swap(*made[:3])
    b = await world.swap(made[3], made[4], path="finetuned/other")
    live = {a[-1].digest, b[-1].digest}
    assert world.store.digests() == live | {a[1].digest, b[0].digest}
    assert world.shown()["previous"] == [a[1].short]
    small = World(tmp_path, keep=9, generations_budget=1)
    await small.catalog.restore()
    await small.look()
    assert small.store.digests() == live

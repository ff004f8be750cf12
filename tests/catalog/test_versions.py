"""Numbered directories are one model: the highest that is whole is live, and the others can be gone back to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gateway import events
from gateway.errors import LoadFailed, ModelNotFound, ModelRejected
from gateway.model import ModelId
from tests.catalog.world import M, World

MODEL = ModelId.of(M)


def put(world: World, made: list[str], *numbers: int) -> None:
    for number in numbers:
        world.put(made[number], f"{M}/{number}")


def states(world: World) -> dict[int, str]:
    return {version["version"]: version["state"] for version in world.shown()["versions"]}


async def test_of_versions_that_are_there_at_once_the_highest_is_live_without_loading_any(
    world: World, made: list[str]
) -> None:
    put(world, made, 1, 2, 3)
    await world.look()
    (listed,) = world.catalog.listing()
    assert (listed["id"], listed["version"], listed["state"]) == (f"huggingface:{M}", 3, "ready")
    assert [version["live"] for version in listed["versions"]] == [True, False, False]
    assert world.engine.loads == []
    assert len(world.store.digests()) == 3
    assert set(world.engine.live) == {world.find().digest}


async def test_a_higher_version_is_loaded_beside_the_live_one_and_goes_live(world: World, made: list[str]) -> None:
    put(world, made, 1)
    await world.look()
    old = world.find()
    put(world, made, 2)
    await world.look()
    assert world.shown()["version"] == 2
    assert world.engine.loads == [world.find().short]
    (swapped,) = world.heard(events.ModelSwapped)
    assert (swapped.model, swapped.previous) == (M, old.short)


async def test_a_lower_version_that_arrives_later_changes_nothing(world: World, made: list[str]) -> None:
    put(world, made, 2)
    await world.look()
    live = world.find()
    put(world, made, 1)
    await world.look()
    assert world.find() == live
    assert states(world) == {2: "ready", 1: "ready"}
    assert world.engine.loads == []


async def test_ten_is_above_nine(world: World, made: list[str]) -> None:
    world.put(made[0], f"{M}/9")
    world.put(made[1], f"{M}/10")
    await world.look()
    assert world.shown()["version"] == 10


async def test_a_higher_version_that_is_broken_or_does_not_load_leaves_the_live_one_and_says_why(
    world: World, made: list[str]
) -> None:
    put(world, made, 1)
    await world.look()
    live = world.find()
    put(world, made, 2)
    os.truncate(world.root / M / "2/model.safetensors", 1000)
    await world.look()
    assert world.find() == live
    assert states(world) == {2: "rejected", 1: "ready"}
    assert world.shown()["pending"]["state"] == "rejected"
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["weights_truncated"]
    world.engine.failure = LoadFailed("no room")
    put(world, made, 3)
    await world.look()
    assert world.find() == live
    assert states(world) == {3: "rejected", 2: "rejected", 1: "ready"}
    assert [event.model for event in world.heard(events.ModelRejected)] == [f"{M}/2", f"{M}/3"]


async def test_a_version_is_asked_for_by_its_number(world: World, made: list[str]) -> None:
    put(world, made, 1, 2)
    await world.look()
    live = world.find()
    found = await world.ask(f"{M}/1")
    assert found.model == MODEL
    assert found.generation != live
    await world.engine.load(found.generation)
    assert (await world.ask(f"huggingface:{M}/2")).generation == live
    assert (await world.ask(f"{M}@{found.generation.short}")).generation == found.generation
    failure = await world.refused(f"{M}/7")
    assert isinstance(failure, ModelNotFound)
    assert "versions 1, 2" in failure.message


async def test_a_version_that_may_not_be_served_says_so_when_it_is_asked_for(world: World, made: list[str]) -> None:
    put(world, made, 1, 2)
    os.truncate(world.root / M / "1/model.safetensors", 1000)
    await world.look()
    assert isinstance(await world.refused(f"{M}/1"), ModelRejected)


async def test_a_rollback_leads_to_the_next_lower_version_and_sticks_until_a_higher_one_comes(
    world: World, made: list[str]
) -> None:
    put(world, made, 1, 2, 3)
    await world.look()
    await world.catalog.rollback(MODEL)
    assert world.shown()["version"] == 2
    os.utime(world.root / M / "3/config.json", (1, 1))
    await world.look()
    assert world.shown()["version"] == 2
    again = await world.restarted()
    await again.look()
    assert again.shown()["version"] == 2
    await again.catalog.rollback(MODEL)
    assert again.shown()["version"] == 1
    put(world, made, 4)
    await again.look()
    assert again.shown()["version"] == 4


async def test_new_content_of_a_version_that_was_rolled_back_from_is_a_newer_drop(
    world: World, made: list[str]
) -> None:
    put(world, made, 1, 2)
    await world.look()
    await world.catalog.rollback(MODEL)
    world.put(made[4], f"{M}/2")
    await world.look()
    assert world.shown()["version"] == 2
    assert world.shown()["rolled_back_from"] == []


async def test_when_the_live_version_goes_the_next_lower_one_is_loaded_and_takes_its_place(
    world: World, made: list[str]
) -> None:
    put(world, made, 1, 2)
    await world.look()
    gone = world.find()
    shutil.rmtree(world.root / M / "2")
    await world.look()
    assert world.shown()["version"] == 1
    assert world.engine.loads == [world.find().short]
    assert [swap.previous for swap in world.heard(events.ModelSwapped)] == [gone.short]
    assert [event.model for event in world.heard(events.ModelRemoved)] == [f"{M}/2"]
    shutil.rmtree(world.root / M)
    await world.look()
    assert world.catalog.listing() == []
    assert world.store.digests() == set()


async def test_when_the_next_lower_one_does_not_load_the_one_that_has_gone_serves_on(
    world: World, made: list[str]
) -> None:
    put(world, made, 1, 2)
    await world.look()
    live = world.find()
    world.engine.failure = LoadFailed("no room")
    shutil.rmtree(world.root / M / "2")
    await world.look()
    assert world.find() == live
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["load_failed"]
    world.engine.failure = None
    world.now += 100
    await world.look()
    assert world.shown()["version"] == 1


async def test_of_many_versions_only_the_newest_are_copied(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path, keep=1)
    put(world, made, 0, 1, 2, 3)
    await world.look()
    assert sorted(world.store.accepted) == [f"{M}/2", f"{M}/3"]  # at the same time, in any order
    assert states(world) == {3: "ready", 2: "ready", 1: "not_kept", 0: "not_kept"}
    shutil.rmtree(world.root / M / "3")
    await world.look()
    await world.look()
    assert states(world) == {2: "ready", 1: "ready", 0: "not_kept"}


async def test_files_beside_the_numbers_are_older_than_all_of_them(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    put(world, made, 1)
    await world.look()
    assert world.shown()["version"] == 1
    await world.catalog.rollback(MODEL)
    assert world.shown()["version"] is None


async def test_a_restart_knows_all_versions_without_reading_any(world: World, made: list[str]) -> None:
    put(world, made, 1, 2)
    await world.look()
    again = await world.restarted()
    assert again.find() == world.find()
    await again.look()
    assert again.store.accepted == []
    assert again.shown()["versions"] == world.shown()["versions"]
    assert again.catalog.served() == world.catalog.served()

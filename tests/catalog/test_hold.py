"""Generations that an index was made with: they stay, however many newer ones come, until nobody holds them."""

from __future__ import annotations

from pathlib import Path

from tests.catalog.world import M, World


async def test_what_is_held_stays_on_the_disk_and_may_be_run_however_many_newer_ones_come(
    tmp_path: Path, made: list[str]
) -> None:
    world = World(tmp_path, keep=1)
    (first,) = await world.swap(made[0])
    world.catalog.hold(lambda: {first.digest})
    await world.swap(*made[1:])
    assert (await world.ask(f"{M}@{first.digest}")).generation.digest == first.digest
    await world.engine.load(first)  # it was never retired


async def test_a_held_generation_is_never_retired_between_finding_and_running_it(
    tmp_path: Path, made: list[str]
) -> None:
    world = World(tmp_path)
    (first,) = await world.swap(made[0])
    world.catalog.hold(lambda: {first.digest})
    found = await world.ask(f"{M}@{first.digest}")
    await world.swap(made[1])
    await world.engine.load(found.generation)
    assert world.catalog.owners(first.digest) == (M,)


async def test_what_nobody_holds_any_more_goes_with_the_next_change(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path, keep=1)
    (first,) = await world.swap(made[0])
    held = {first.digest}
    world.catalog.hold(lambda: held)
    await world.swap(made[1], made[2])
    held.clear()
    await world.swap(made[3])
    assert (await world.refused(f"{M}@{first.digest}")).code == "generation_not_found"


async def test_what_is_held_survives_a_restart(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path)
    (first,) = await world.swap(made[0])
    world.catalog.hold(lambda: {first.digest})
    await world.swap(*made[1:4])
    await world.quiet()
    again = World(tmp_path)
    again.catalog.hold(lambda: {first.digest})
    await again.catalog.restore()
    await again.swap(made[4])
    assert (await again.ask(f"{M}@{first.digest}")).generation.digest == first.digest

"""What was loaded at the end is loaded at the start, and whatever stands against it stands against nothing else."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from gateway import events
from gateway.catalog.warm import Warm
from gateway.engine.engine import DeviceState
from gateway.errors import LoadFailed
from gateway.settings import Settings
from tests.catalog.world import World

A, B, C = "finetuned/a", "finetuned/b", "finetuned/c"
BYTES = 10  # of each model, as the world's engine counts


def warm(world: World, preload: str, size: int = BYTES) -> Warm:
    settings = Settings(models_dir=str(world.root), state_dir=str(world.state), preload=preload)
    return Warm(
        settings,
        world.engine,
        world.events,
        find=world.ask,
        names=world.catalog.models_of,
        predict=lambda generation: size,
    )


def file(world: World) -> Any:
    return world.state / "warm.json"


def loaded(world: World) -> list[str]:
    return [path for digest in world.engine.loaded for path in world.catalog.models_of(digest)]


def notices(world: World) -> list[str]:
    return [notice.code for notice in world.heard(events.Notice)]


@pytest.fixture
async def full(world: World, made: list[str]) -> World:
    """Three models, none of them loaded."""
    for source, path in zip(made, (A, B, C), strict=False):
        world.put(source, path)
    await world.look()
    assert not world.engine.loaded
    return world


async def test_the_models_that_are_named_are_loaded_in_that_order(full: World) -> None:
    await warm(full, f" {B}, huggingface:{A} ,").load()
    assert loaded(full) == [B, A]
    assert notices(full) == []


async def test_nothing_is_loaded_before_the_volume_was_looked_at(full: World) -> None:
    looked = asyncio.Event()
    following = asyncio.create_task(warm(full, A).follow(looked))
    await asyncio.sleep(0)
    assert loaded(full) == []
    looked.set()
    await full.engine.begins()
    following.cancel()


async def test_last_is_what_was_loaded_at_the_end_most_recently_used_first(full: World) -> None:
    before = warm(full, f"last,{A}")
    await before.load()
    for path in (C, B):
        await full.engine.load(full.find(path))
    await before.remember()
    assert json.loads(file(full).read_bytes()) == [B, C, A]
    full.engine.loaded.clear()
    await warm(full, f"last,{A}").load()
    assert loaded(full) == [B, C, A]


async def test_a_model_that_is_loaded_already_is_left_alone(full: World) -> None:
    await full.engine.load(full.find(A))
    await warm(full, f"{A},{A}").load()
    assert len(full.engine.loads) == 1


async def test_one_that_fails_or_is_not_there_does_not_keep_the_others_from_being_loaded(full: World) -> None:
    full.engine.bad = {1}
    await warm(full, f"{A},finetuned/none,..,{B}").load()
    assert loaded(full) == [B]
    assert notices(full) == ["preload_failed"] * 3


async def test_what_does_not_fit_evicts_nobody(full: World) -> None:
    await warm(full, f"{A},{B}", size=991).load()
    assert loaded(full) == [A]
    assert notices(full) == ["preload_skipped"]


async def test_as_long_as_no_device_is_up_the_load_waits_for_one(full: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full.engine, "devices", lambda: [DeviceState("cpu", False, None, 0, 0, 0, 0, 0)])
    await warm(full, A).load()
    assert loaded(full) == [A]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]", b"\xff", b"[" * 100_000])
async def test_a_broken_file_is_told_and_passed_over(content: bytes, full: World) -> None:
    file(full).write_bytes(content)
    await warm(full, f"last,{A}").load()
    assert loaded(full) == [A]
    assert notices(full) == ["warm_set_unreadable"]


async def test_without_a_file_there_was_nothing(full: World) -> None:
    await warm(full, "last").load()
    assert loaded(full) == []
    assert notices(full) == []


async def test_a_gateway_that_stops_before_it_is_warm_forgets_nothing(full: World) -> None:
    file(full).write_text(f'["{A}", "{B}"]')
    await warm(full, "last").remember()
    assert json.loads(file(full).read_bytes()) == [A, B]


async def test_nothing_is_written_for_those_who_do_not_ask_for_it(full: World) -> None:
    unwanted = warm(full, A)
    await unwanted.load()
    await unwanted.remember()
    assert not file(full).exists()


async def test_a_disk_that_is_full_is_told_and_the_old_file_stays(full: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file(full).write_text(f'["{A}"]')

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    last = warm(full, f"last,{B}")
    await last.load()
    await last.remember()
    assert json.loads(file(full).read_bytes()) == [A]
    assert notices(full) == ["warm_set_unwritable"]


async def test_what_was_withdrawn_is_not_remembered(full: World) -> None:
    last = warm(full, f"last,{A},{B}")
    await last.load()
    await last.remember()
    (full.root / A).rename(full.base / "away")
    await full.look()
    await last.remember()
    assert json.loads(file(full).read_bytes()) == [B]


async def test_a_load_that_goes_wrong_later_says_so(full: World) -> None:
    full.engine.failure = LoadFailed("no memory")
    await warm(full, A).load()
    assert [notice.message for notice in full.heard(events.Notice)] == [f"{A}: no memory"]

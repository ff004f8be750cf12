"""The store is swept at the start, while clients are answered."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.catalog.world import World

PATIENCE = 300.0  # seconds: never what decides


async def test_what_a_killed_process_left_half_made_goes_with_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    half = Path(world.store.folder("x")).parent / ".half"
    half.mkdir()
    await world.catalog.restore()
    assert not half.exists()


async def test_a_sweep_that_takes_long_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    answered = threading.Event()
    swept: list[bool] = []
    monkeypatch.setattr(world.store, "sweep", lambda: swept.append(answered.wait(PATIENCE)))
    restoring = asyncio.create_task(world.catalog.restore())
    await asyncio.sleep(0)
    answered.set()  # the loop goes on meanwhile
    await restoring
    assert swept == [True]

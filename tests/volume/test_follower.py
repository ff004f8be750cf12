"""The follower's ears: what an exchange by rename does to watchdog must cost nobody a timer's wait."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway import events
from gateway.model import ModelId
from gateway.settings import Settings
from gateway.volume.follower import Follower
from gateway.volume.settle import Snapshot
from tests.volume.test_source import drop, exchange, one

NEVER = 100_000.0  # seconds of the timer: only hints and what was asked for bring a look
DEADLINE = 300.0  # only ends a test that hangs
ROUNDS = 6


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # watchdog's: it is what is tested
async def test_publishing_by_exchange_again_and_again_is_seen_without_the_timer_and_leaves_no_thread(
    tmp_path: Path,
) -> None:
    """An exchange mostly kills a thread of watchdog's: it is replaced at once, and its like do not pile up. Whether it
    does is a race inside watchdog; in some runs none dies, and every exchange must be seen all the same."""
    live = drop(tmp_path / "root/finetuned/m", "config.json", "1_Pooling/config.json")
    fingerprints: set[str] = set()
    looked = asyncio.Event()
    told: list[events.Event] = []

    def seen(snapshot: Snapshot) -> None:
        fingerprints.update(observation.directory.fingerprint for observation in snapshot.observations.values())
        looked.set()

    def served() -> Mapping[ModelId, int | None]:
        return {}

    tell = events.Events()
    tell.subscribe(told.append)
    settings = Settings(
        models_dir=str(tmp_path / "root"), state_dir=str(tmp_path), scan_interval=NEVER, settle_seconds=0.0
    )
    following = asyncio.create_task(Follower(settings, tell, served, seen).follow())

    async def until_seen() -> None:
        now = one(tmp_path / "root").fingerprint
        async with asyncio.timeout(DEADLINE):
            while now not in fingerprints:
                looked.clear()
                await looked.wait()

    try:
        await until_seen()
        after_first = 0
        for number in range(ROUNDS):
            stage = drop(tmp_path / f"root/finetuned/.m.{number}", "config.json", "1_Pooling/config.json")
            exchange(stage, live)
            shutil.rmtree(stage)
            await until_seen()
            after_first = after_first or threads()
        assert not any(isinstance(event, events.WatcherDeaf) for event in told)
        async with asyncio.timeout(DEADLINE):
            while threads() > after_first + 1:  # one that was told to end may be on its way
                await asyncio.sleep(0.01)
    finally:
        following.cancel()
        await asyncio.wait({following})

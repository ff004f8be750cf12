"""The follower's ears: what an exchange by rename does to watchdog must cost nobody a timer's wait."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gateway import events
from gateway.model import ModelId
from gateway.settings import Settings
from gateway.volume import checks
from gateway.volume.directory import Directory
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.follower import LEAST_GAP, Follower, gap
from gateway.volume.settle import Snapshot
from gateway.volume.sums import Checked
from gateway.volume.volume import FileVolume
from gateway.volume.watch import Watcher
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
    follower = Follower(settings, tell, served, seen)
    following = asyncio.create_task(follower.follow())

    async def until_seen() -> None:
        now = one(tmp_path / "root").fingerprint
        async with asyncio.timeout(DEADLINE):
            while now not in fingerprints:
                looked.clear()
                await looked.wait()

    try:
        await until_seen()
        async with asyncio.timeout(DEADLINE):
            while follower._watcher is None or follower._watcher.check() is not None:  # until it has been started
                await asyncio.sleep(0.01)
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


class Listening(FileVolume):
    """Whose watchdog walks the tree for as long as a test wants."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.begun, self.gate = threading.Event(), threading.Event()

    def watcher(self, on_hint: Callable[[], None]) -> Watcher:
        volume = self

        class Walking(Watcher):
            def start(self) -> None:
                volume.begun.set()
                volume.gate.wait(DEADLINE)
                super().start()

        return Walking(self.root, on_hint)


async def test_a_watchdog_that_walks_the_tree_for_long_holds_up_no_look(tmp_path: Path) -> None:
    settings = Settings(
        models_dir=str(tmp_path / "root"), state_dir=str(tmp_path), scan_interval=NEVER, settle_seconds=0.0
    )
    drop(tmp_path / "root/finetuned/m")
    volume = Listening(settings)
    found: set[str] = set()
    looked = asyncio.Event()
    told: list[events.Event] = []

    def seen(snapshot: Snapshot) -> None:
        found.update(model.name for model in snapshot.observations)
        looked.set()

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                looked.clear()
                await looked.wait()

    tell = events.Events()
    tell.subscribe(told.append)
    follower = Follower(settings, tell, dict, seen, volume)
    following = asyncio.create_task(follower.follow())
    try:
        await until(lambda: "m" in found)
        assert await asyncio.to_thread(volume.begun.wait, DEADLINE)
        drop(tmp_path / "root/finetuned/asked")
        follower.look_again()
        await until(lambda: "asked" in found)
        drop(tmp_path / "root/finetuned/unasked")  # nobody hears of it yet
        volume.gate.set()
        await until(lambda: "unasked" in found)
        assert not any(isinstance(event, events.WatcherDeaf | events.WatcherRebuilt) for event in told)
    finally:
        volume.gate.set()
        following.cancel()
        await asyncio.wait({following})


class Hashing(FileVolume):
    """Whose SHA256SUMS of the model `held` are compared for as long as a test wants."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.begun, self.gate = threading.Event(), threading.Event()

    def evidence(self) -> VolumeEvidence:
        volume = self

        class Evidence(VolumeEvidence):
            def checked(self, directory: Directory) -> Checked:
                if directory.model.name == "held":
                    volume.begun.set()
                    volume.gate.wait(DEADLINE)
                return super().checked(directory)

        return Evidence(self.root)


def drop_with_sums(path: Path, content: str) -> None:
    """By one rename, and so old that nothing but its sums is waited for."""
    stage = drop(path.with_name(f".{path.name}"), content=content)
    subprocess.run("sha256sum $(find . -type f) > ../sums; mv ../sums SHA256SUMS", cwd=stage, shell=True, check=True)
    stage.rename(path)


async def test_a_directory_whose_sums_take_long_to_compare_holds_up_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing settles here by time, and the timer never comes: each look is asked for by who has news."""
    monkeypatch.setattr(checks, "LARGE", 1000)
    settings = Settings(
        models_dir=str(tmp_path / "root"), state_dir=str(tmp_path), scan_interval=NEVER, settle_seconds=NEVER
    )
    (tmp_path / "root/finetuned").mkdir(parents=True)
    volume = Hashing(settings)
    settled: set[str] = set()
    looked = asyncio.Event()

    def seen(snapshot: Snapshot) -> None:
        found = snapshot.observations.items()
        settled.update(model.name for model, observation in found if observation.settled)
        looked.set()

    async def until_settled(name: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while name not in settled:
                looked.clear()
                await looked.wait()

    following = asyncio.create_task(Follower(settings, events.Events(), dict, seen, volume).follow())
    try:
        async with asyncio.timeout(DEADLINE):
            await looked.wait()
        drop_with_sums(tmp_path / "root/finetuned/held", "x" * 1000)
        assert await asyncio.to_thread(volume.begun.wait, DEADLINE)
        drop_with_sums(tmp_path / "root/finetuned/other", "x")
        await until_settled("other")
        assert "held" not in settled
        volume.gate.set()
        await until_settled("held")
    finally:
        volume.gate.set()
        following.cancel()
        await asyncio.wait({following})


def test_the_rest_after_a_look_is_ten_times_its_length_and_never_longer_than_the_period() -> None:
    assert gap(0.0, 5.0) == LEAST_GAP
    assert gap(0.2, 5.0) == 2.0
    assert gap(60.0, 5.0) == 5.0

"""With watchdog dead, deaf or drowned, a drop is seen by the timer, and events and metrics say what happened.

The periodic look is the truth; the hint only makes it prompt. Nothing here waits for a length of time: each test waits
until the follower's own snapshots show what they must.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.model import ModelId
from gateway.settings import Settings
from gateway.telemetry import Metrics
from gateway.volume import follower, watch
from gateway.volume.follower import Follower
from gateway.volume.settle import Snapshot
from gateway.volume.source import Scan
from gateway.volume.volume import FileVolume
from tests.catalog.world import Engine
from tests.volume.test_source import drop, exchange

REPO = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds; only ends a test that would hang
PERIOD = 0.1


class Counted(FileVolume):
    looks = 0

    def scan(self) -> Scan:
        self.looks += 1
        return super().scan()


class World:
    """A follower over a real volume, and what it told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[events.Event] = []
        self.metrics = Metrics(Engine(), lambda digest: ())
        self.snapshot: Snapshot | None = None
        self.removed: set[ModelId] = set()
        tell = events.Events()
        tell.subscribe(self._hear)
        tell.subscribe(self.metrics)
        state = root.with_name("state")
        state.mkdir(exist_ok=True)
        settings = Settings(models_dir=str(root), state_dir=str(state), scan_interval=PERIOD, settle_seconds=0.01)
        self.volume = Counted(settings)
        self.follower = Follower(settings, tell, dict, self._see, self.volume)
        self.watcher = self.follower._watcher

    def _hear(self, event: events.Event) -> None:
        self.told.append(event)

    def _see(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.removed |= snapshot.removed

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0)  # looks happen on a lane; this only lets the loop turn

    async def sees(self, name: str) -> None:
        model = ModelId("finetuned", name)
        await self.until(
            lambda: self.snapshot and (found := self.snapshot.observations.get(model)) is not None and found.settled
        )

    def heard(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    def looks(self) -> list[str]:
        return [event.why for event in self.heard(events.VolumeScanned)]

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(drop(tmp_path / "root/finetuned/m").parents[1])
    task = asyncio.create_task(world.follower.follow())
    await world.sees("m")
    await world.until(lambda: world.watcher.check() is None and not world.follower._is_busy())
    before = len(world.looks())
    await world.until(lambda: len(world.looks()) > before + 1)  # the one that a started watchdog asks for is over
    yield world
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled(), task


def thread(world: World, name: str) -> Any:
    observer = world.watcher._observer
    assert observer is not None
    (emitter,) = observer.emitters
    return {"dispatcher": observer, "emitter": emitter, "inotify reader": watch._reader(observer)}[name]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is late with the watch of a new folder is not taken for deaf, however late."""
    monkeypatch.setattr(watch, "NOTICED_SECONDS", PATIENCE)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("dispatcher", ("dispatcher", "emitter")),  # it ends its emitters first, and may be looked at in between
        ("emitter", ("emitter",)),
        ("inotify reader", ("inotify reader",)),
    ],
)
async def test_a_drop_is_seen_with_any_thread_of_watchdogs_dead(
    world: World, name: str, named: tuple[str, ...]
) -> None:
    dead = thread(world, name)
    dead.stop()
    await asyncio.to_thread(dead.join, PATIENCE)
    drop(world.root / "finetuned/n")
    await world.sees("n")
    await world.until(lambda: world.heard(events.WatcherRebuilt))
    assert world.heard(events.WatcherRebuilt)[0].why in {f"watchdog's {each} has died" for each in named}
    assert world.metric("dropgate_watcher_rebuilds_total") == 1
    assert world.watcher.check() is None


@pytest.mark.usefixtures("unhurried")
async def test_a_drop_is_seen_when_no_hint_ever_comes(world: World) -> None:
    world.watcher._hint.dispatch = lambda event: None  # type: ignore[method-assign] # alive, and says nothing
    before = len(world.looks())
    drop(world.root / "finetuned/n")
    await world.sees("n")
    assert set(world.looks()[before:]) == {"timer"}


def remade(root: Path) -> None:
    root.rename(root.parent / "old")
    drop(root / "finetuned/n")


def linked(root: Path) -> None:
    root.rename(root.parent / "old")
    drop(root.parent / "new/finetuned/n")
    root.symlink_to("new")


def exchanged(root: Path) -> None:
    drop(root.parent / "new/finetuned/n")
    exchange(root, root.parent / "new")


@pytest.mark.parametrize("change", [remade, linked, exchanged])
async def test_a_drop_is_seen_after_the_root_became_another(world: World, change: Callable[[Path], None]) -> None:
    change(world.root)
    await world.sees("n")
    await world.until(lambda: world.heard(events.WatcherRebuilt))
    await world.until(lambda: world.watcher.check() is None)
    assert world.metric("dropgate_watcher_rebuilds_total") >= 1  # type: ignore[operator] # None fails too
    drop(world.root / "finetuned/later")
    await world.sees("later")


async def test_a_root_that_is_away_is_said_and_takes_no_model_away(world: World) -> None:
    world.root.rename(world.root.parent / "aside")
    await world.until(lambda: world.heard(events.VolumeUnreadable))
    before = len(world.heard(events.VolumeScanned))
    assert world.snapshot is not None
    assert world.snapshot.removed == frozenset()
    (world.root.parent / "aside").rename(world.root)
    await world.until(lambda: len(world.heard(events.VolumeScanned)) > before + 2)
    assert world.snapshot.removed == frozenset()
    assert ModelId("finetuned", "m") in world.snapshot.observations
    assert len(world.heard(events.VolumeUnreadable)) == 1


async def test_an_unmount_that_leaves_its_empty_mount_point_takes_no_model_away(world: World) -> None:
    mounted = world.root.rename(world.root.with_name("mounted"))
    world.root.mkdir()
    await world.until(lambda: world.heard(events.VolumeUnreadable) or world.removed)
    before = world.volume.looks
    await world.until(lambda: world.volume.looks > before + 5)
    world.root.rmdir()
    mounted.rename(world.root)
    drop(world.root / "finetuned/n")
    await world.sees("n")
    assert world.snapshot is not None
    assert ModelId("finetuned", "m") in world.snapshot.observations
    assert not world.removed


async def test_a_drop_is_seen_after_the_kernels_queue_overflowed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"this kernel queues {limit} events")
    monkeypatch.setattr(follower, "CHECK_EVERY", sys.maxsize)  # a check would replace the reader that is held here
    gate, overflowed = threading.Event(), threading.Event()

    def held(event: Any, inner: Callable[[Any], None]) -> None:
        gate.wait(PATIENCE)
        if event.is_queue_overflow:
            overflowed.set()
        inner(event)

    hold(world, held)
    try:
        await asyncio.to_thread(touch, world.root, limit)
        drop(world.root / "finetuned/n")
        await world.sees("n")  # while the reader is still held
    finally:
        gate.set()
    assert await asyncio.to_thread(overflowed.wait, PATIENCE)
    assert world.heard(events.WatcherRebuilt) == []
    monkeypatch.undo()
    drop(world.root / "finetuned/later")
    await world.sees("later")
    await world.until(lambda: world.watcher.check() is None)


async def test_a_drop_is_seen_though_watchdogs_reader_hangs(world: World) -> None:
    gate = threading.Event()

    def held(event: Any, inner: Callable[[Any], None]) -> None:
        gate.wait(PATIENCE)
        inner(event)

    hung = hold(world, held)
    try:
        drop(world.root / "finetuned/n")
        await world.sees("n")
        await world.until(lambda: world.heard(events.WatcherRebuilt))
        assert "finetuned/n has no watch" in world.heard(events.WatcherRebuilt)[0].why
        assert hung.is_alive()  # left behind
        drop(world.root / "finetuned/later")
        await world.sees("later")
        await world.until(lambda: world.watcher.check() is None)
    finally:
        gate.set()
    await asyncio.to_thread(hung.join, PATIENCE)
    assert not hung.is_alive()


def hold(world: World, held: Callable[[Any, Callable[[Any], None]], None]) -> Any:
    """Has watchdog's reader give each event to `held`, with what it would have done itself."""
    reader = thread(world, "inotify reader")
    inner = reader.handle_event
    reader.handle_event = lambda event: held(event, inner)
    return reader


def touch(folder: Path, count: int) -> None:
    """More events than the kernel queues: no two of them alike, or it would keep one."""
    target = folder / "0"
    target.touch()
    for number in range(1, count + 100):
        target = target.rename(folder / str(number))


async def test_a_watcher_that_can_not_be_started_is_told_once_until_it_hears(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted(watch.Observer):  # type: ignore[misc,valid-type] # watchdog chooses the class by platform
        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "Observer", Exhausted)
    thread(world, "emitter").stop()
    await world.until(lambda: world.heard(events.WatcherDeaf))
    assert "inotify watch limit reached" in world.heard(events.WatcherDeaf)[0].why
    assert world.metric("dropgate_watcher_deaf") == 1
    drop(world.root / "finetuned/n")
    await world.sees("n")
    before = len(world.heard(events.VolumeScanned))
    await world.until(lambda: len(world.heard(events.VolumeScanned)) > before + 2 * follower.CHECK_EVERY)
    assert len(world.heard(events.WatcherDeaf)) == 1
    assert world.heard(events.WatcherRebuilt) == []
    monkeypatch.undo()
    await world.until(lambda: world.heard(events.WatcherRebuilt))
    assert world.metric("dropgate_watcher_deaf") == 0
    assert world.watcher.check() is None


LIMITED = """
import asyncio, json, sys
from pathlib import Path
from gateway import events
from tests.drop import test_deaf_watcher
from tests.volume.test_source import drop

async def main():
    world = test_deaf_watcher.World(Path(sys.argv[1]))
    task = asyncio.create_task(world.follower.follow())
    await world.sees("m")
    drop(world.root / "finetuned/n")
    await world.sees("n")
    await world.until(lambda: world.heard(events.WatcherDeaf))
    print(json.dumps([world.heard(events.WatcherDeaf)[0].why, world.metric("dropgate_watcher_deaf")]))
    task.cancel()

asyncio.run(main())
"""


def test_a_drop_is_seen_by_a_gateway_whose_kernel_has_no_watches_left(tmp_path: Path) -> None:
    root = drop(tmp_path / "root/finetuned/m").parents[1]
    limit = "echo 1 > /proc/sys/user/max_inotify_watches"  # of a user namespace of its own: nobody else is short
    if subprocess.run(["unshare", "-Ur", "sh", "-c", limit], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives us no user namespace")
    command = f'{limit} && exec {sys.executable} -c "$1" {root}'
    ran = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command, "sh", LIMITED],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    why, gauge = json.loads(ran.stdout)
    assert "max_user_watches" in why
    assert gauge == 1

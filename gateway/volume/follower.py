"""Follows the volume: a hint or the timer says "look", and each look is given whole to whoever wants it.

The timer is the truth and the hint only makes it prompt: with watchdog deaf or dead, a drop is seen a period later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from gateway import events
from gateway.lane import Lane
from gateway.model import ModelId
from gateway.settings import Settings
from gateway.volume.checks import Checks
from gateway.volume.settle import Settler, Snapshot
from gateway.volume.source import Scan, VolumeUnreadable
from gateway.volume.volume import FileVolume, Volume
from gateway.volume.watch import Watcher

LEAST_GAP: Final = 0.05  # seconds between looks, while hints rain
GAP_PER_LOOK: Final = 10.0  # and this many times as long as reading the volume took, but no longer than the period
CHECK_EVERY: Final = 2  # looks by the timer, of which one asks whether watchdog still hears
DEATH_SECONDS: Final = 0.5  # until a dead thread of watchdog's is noticed: publishing by exchange kills one


class Follower:
    """`served` is the catalog's; `on_snapshot` is called with every look, on the event loop. Without a `volume` it is
    the one of the settings, as a directory."""

    def __init__(
        self,
        settings: Settings,
        tell: events.Events,
        served: Callable[[], Mapping[ModelId, int | None]],
        on_snapshot: Callable[[Snapshot], None],
        volume: Volume | None = None,
    ) -> None:
        self._volume = volume or FileVolume(settings)
        self._period = settings.scan_interval or self._volume.period
        self._events = tell
        self._served = served
        self._on_snapshot = on_snapshot
        self._hint = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._checks = Checks(self._volume.evidence(), self._hinted)
        self._settler = Settler(settings, self._checks, network=self._volume.shared)
        self._lane = Lane("volume")
        self._watcher = self._volume.watcher(self._hinted)
        self._ears = Lane("watchdog")
        self._hearing: asyncio.Task[None] | None = None  # watchdog is being started, or asked whether it hears
        self._forget: set[ModelId] = set()
        self._lost = False
        self._deaf = False
        self._by_timer = 0

    def look_again(self, model: ModelId | None = None) -> None:
        """Asks for a look soon; with a model, starts over with it."""
        if model is not None:
            self._forget.add(model)
        self._hint.set()

    async def follow(self) -> None:
        """Looks for ever. To be run once, as a task."""
        self._events.emit(
            events.VolumeWatched(
                place=self._volume.place, way=self._volume.way, kind=self._volume.kind, period=self._period
            )
        )
        due: float | None = None
        why = "start"
        try:
            while True:
                due, took = await self._look(why, due)
                self._keep_hearing(why)
                await asyncio.sleep(gap(took, self._period))
                why = await self._wait(due)
        finally:
            if self._hearing is not None:
                self._hearing.cancel()
            self._ears.close(wait=False)
            if self._watcher is not None:
                self._watcher.stop()
            self._lane.close(wait=False)
            self._checks.close()

    async def _look(self, why: str, due: float | None) -> tuple[float | None, float]:
        """One look; the answer is when time alone can bring news, and for how many seconds the volume was read. A root
        that cannot be read changes nothing."""
        self._hint.clear()
        if self._watcher is not None:
            self._watcher.take()
        forget, self._forget = self._forget, set()
        began = time.monotonic()
        try:
            found, snapshot, took = await self._lane.run(self._scan, dict(self._served()), forget)
        except VolumeUnreadable as error:
            if not self._lost:
                self._events.emit(events.VolumeUnreadable(path=error.path, message=str(error)))
            self._lost = True
            return due, time.monotonic() - began
        self._lost = False
        self._events.emit(
            events.VolumeScanned(
                why=why,
                directories=len(found.directories),
                files=found.files,
                unsettled=sum(not seen.settled for seen in snapshot.observations.values()),
                seconds=time.monotonic() - began,
            )
        )
        self._on_snapshot(snapshot)
        return snapshot.due, took

    def _scan(self, served: Mapping[ModelId, int | None], forget: set[ModelId]) -> tuple[Scan, Snapshot, float]:
        for model in forget:
            self._settler.forget(model)
        began = time.monotonic()
        found = self._volume.scan()
        now = time.monotonic()
        return found, self._settler.observe(found, now=now, wall=time.time(), served=served), now - began

    async def _wait(self, due: float | None) -> str:
        """Until a hint, until time alone may bring news, or until watchdog is found dead."""
        now = time.monotonic()
        until = now + self._period if due is None else min(now + self._period, due)
        while True:
            left = until - time.monotonic()
            try:
                await asyncio.wait_for(self._hint.wait(), min(DEATH_SECONDS, max(0.0, left)))
            except TimeoutError:
                if left <= DEATH_SECONDS:
                    return "timer"
                if self._watcher is not None and not self._is_busy() and self._watcher.dead:
                    return "deaf"
            else:
                return "hint"

    def _keep_hearing(self, why: str) -> None:
        """Starts watchdog, and sees to one that has gone deaf: beside the looks, for it walks whatever lies there."""
        self._by_timer += why == "timer"
        if self._watcher is None or self._is_busy():
            return
        asked = why == "timer" and self._by_timer % CHECK_EVERY == 0
        if why == "start":
            self._hearing = asyncio.create_task(self._begin_hearing(self._watcher))
        elif not self._lost and (asked or self._watcher.dead):
            self._hearing = asyncio.create_task(self._hear(self._watcher))

    def _is_busy(self) -> bool:
        """Whether watchdog is being seen to. A bug in that comes out here."""
        if self._hearing is not None and self._hearing.done():
            self._hearing.result()
            self._hearing = None
        return self._hearing is not None

    async def _begin_hearing(self, watcher: Watcher) -> None:
        await self._ears.run(watcher.start)
        self._hint.set()  # for what changed since the first look
        if not self._lost:
            await self._hear(watcher)

    async def _hear(self, watcher: Watcher) -> None:
        """Rebuilds a watchdog that has gone deaf, and asks for a look at what it missed meanwhile."""
        if deaf := await self._ears.run(watcher.check):
            await self._ears.run(watcher.rebuild)
            still = await self._ears.run(watcher.check)
            self._tell_hearing(deaf, still)

    def _tell_hearing(self, deaf: str, still: str | None) -> None:
        """After a rebuild: that it helped, or, once, that it did not."""
        if still is None:
            self._events.emit(events.WatcherRebuilt(why=deaf))
            self._hint.set()
        elif not self._deaf:
            self._events.emit(events.WatcherDeaf(why=still))
        self._deaf = still is not None

    def _hinted(self) -> None:
        """Called on other threads; the loop may have gone."""
        try:
            self._loop.call_soon_threadsafe(self._hint.set)
        except RuntimeError:
            return


def gap(took: float, period: float) -> float:
    """Seconds to rest after a look that read the volume for `took` seconds: deaf to hints, so never over the period."""
    return min(max(LEAST_GAP, GAP_PER_LOOK * took), period)

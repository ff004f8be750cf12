"""What happened lately, for people who look: requests a second by model, what the devices held, how the volume was
looked at. All of it is bounded, and forgotten with the process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from gateway import events
from gateway.engine.engine import Engine

WINDOW: Final = 10.0  # seconds over which requests are counted
SAMPLE_SECONDS: Final = 2.0
MOST_SAMPLES: Final = 450  # a quarter of an hour, where something changes all the time
MOST_SHOWN: Final = 12  # models of a device that a sample names; the others are one number


class Held(msgspec.Struct, frozen=True):
    """What a device held: `models` are the largest, by their name, with their bytes; `others` are all the rest."""

    device: str
    used: int
    budget: int
    models: dict[str, int]
    others: int


class Sample(msgspec.Struct, frozen=True):
    """All devices at one moment, in Unix seconds."""

    at: float
    devices: tuple[Held, ...]


class Watch(msgspec.Struct, frozen=True):
    """The last look at the volume, and how it is looked at: by `events` or `polling`, a file system of this `kind`, and
    every `period` seconds. `deaf` says why watchdog hears nothing; None while it does."""

    way: str = ""
    kind: str = ""
    period: float = 0.0
    at: float | None = None
    directories: int = 0
    files: int = 0
    unsettled: int = 0
    seconds: float = 0.0
    why: str = ""
    deaf: str | None = None
    unreadable: str | None = None


class Activity:
    """To be subscribed to the events, and followed."""

    def __init__(
        self, engine: Engine, names: Callable[[str], tuple[str, ...]], clock: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._names = names
        self._clock = clock
        self._seconds: deque[tuple[int, Counter[str]]] = deque()  # requests of each second, by model
        self.samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self.watch = Watch()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RequestFinished(model=str() as model, generation=str()):
                self._count(model)
            case events.VolumeScanned():
                self.watch = msgspec.structs.replace(
                    self.watch,
                    at=self._clock(),
                    directories=event.directories,
                    files=event.files,
                    unsettled=event.unsettled,
                    seconds=event.seconds,
                    why=event.why,
                    unreadable=None,
                )
            case events.VolumeWatched():
                self.watch = msgspec.structs.replace(self.watch, way=event.way, kind=event.kind, period=event.period)
            case events.WatcherDeaf():
                self.watch = msgspec.structs.replace(self.watch, deaf=event.why)
            case events.WatcherRebuilt():
                self.watch = msgspec.structs.replace(self.watch, deaf=None)
            case events.VolumeUnreadable():
                self.watch = msgspec.structs.replace(self.watch, unreadable=event.message)

    def rates(self) -> dict[str, float]:
        """Requests a second of the models that had any within the window, by path."""
        self._forget(self._clock())
        total: Counter[str] = Counter()
        for _, counted in self._seconds:
            total.update(counted)
        return {model: round(count / WINDOW, 1) for model, count in total.items()}

    async def follow(self) -> None:
        """For ever."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        """Kept if it differs from the last one."""
        held: dict[str, dict[str, int]] = {}
        for digest, residences in self._engine.residences().items():
            for residence in residences:
                if residence.state != "parked" and residence.bytes:
                    name = next(iter(self._names(digest)), digest[:12])
                    models = held.setdefault(residence.device, {})
                    models[name] = models.get(name, 0) + residence.bytes
        devices = tuple(
            _largest(state.device, state.used, state.budget, held.get(state.device, {}))
            for state in self._engine.devices()
        )
        if not self.samples or self.samples[-1].devices != devices:
            self.samples.append(Sample(self._clock(), devices))

    def _count(self, model: str) -> None:
        now = self._clock()
        if not self._seconds or self._seconds[-1][0] != int(now):
            self._forget(now)
            self._seconds.append((int(now), Counter()))
        self._seconds[-1][1][model] += 1

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW:
            self._seconds.popleft()


def _largest(device: str, used: int, budget: int, models: dict[str, int]) -> Held:
    ordered = sorted(models.items(), key=lambda each: (-each[1], each[0]))
    others = sum(size for _, size in ordered[MOST_SHOWN:])
    return Held(device, used, budget, dict(sorted(ordered[:MOST_SHOWN])), others)

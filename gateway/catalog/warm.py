"""The warm set: models that are loaded at the start, before anybody asks, and given up like all others.

Which ones were loaded is written down now and then and at the end, in one small file of the state directory that is
replaced whole. Nothing waits for a preload, and none evicts another: what does not fit is left to its first request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from gateway import atomic, events
from gateway.catalog.lookup import Found
from gateway.engine.engine import Engine
from gateway.errors import GatewayError
from gateway.lane import Lane
from gateway.model import Generation
from gateway.settings import Settings

LAST: Final = "last"  # in the setting: what was loaded at the end
FILE: Final = "warm.json"
INTERVAL: Final = 60.0  # seconds between two looks at what is loaded
HELD: Final = frozenset({"loaded", "parked"})


class Warm:
    """`find` is the catalog's, from a spelling; `predict` says what a generation will take on a device."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        tell: events.Events,
        *,
        find: Callable[[str], Awaitable[Found]],
        names: Callable[[str], tuple[str, ...]],
        predict: Callable[[Generation], int],
    ) -> None:
        self._wanted = [name.strip() for name in settings.preload.split(",") if name.strip()]
        self._path = os.path.join(settings.state_dir, FILE)
        self._engine = engine
        self._events = tell
        self._find = find
        self._names = names
        self._predict = predict
        self._disk = Lane("warm")
        self._written: list[str] | None = None
        self._warmed = False  # before that, what is loaded is not what is wanted

    async def follow(self, judged: asyncio.Event) -> None:
        """Loads the warm set once what lies on the volume is `judged`, and then writes down what is loaded, for
        ever."""
        await judged.wait()
        await self.load()
        while True:
            await asyncio.sleep(INTERVAL)
            await self.remember()

    async def load(self) -> None:
        """The warm set, one model after the other. What goes wrong is told, and stops nothing."""
        for name in await self._resolved():
            await self._load(name)
        self._warmed = True

    async def remember(self) -> None:
        """Writes down what is loaded, most recently used first, if that has changed."""
        if LAST not in self._wanted or not self._warmed or not self._engine.ready:
            return  # a host that is not there holds nothing, and will again
        loaded = self._loaded()
        if loaded == self._written:
            return
        try:
            await self._disk.run(_write, self._path, loaded)
        except OSError as error:
            self._events.emit(events.Notice(code="warm_set_unwritable", message=str(error)))
            return
        self._written = loaded

    def _loaded(self) -> list[str]:
        """One of the models of each generation; what is loaded for a name that nobody can ask for is left out."""
        used = {
            digest: max(residence.last_used for residence in residences)
            for digest, residences in self._engine.residences().items()
            if any(residence.state in HELD for residence in residences)
        }
        digests = sorted(used, key=lambda digest: used[digest], reverse=True)
        return [names[0] for digest in digests if (names := self._names(digest))]

    async def _resolved(self) -> list[str]:
        """The setting, with `last` replaced by what the file says; no model twice."""
        last: list[str] = []
        if LAST in self._wanted:
            try:
                last = await self._disk.run(_read, self._path)
            except (OSError, ValueError) as error:
                message = f"starting without it: {error}"
                self._events.emit(events.Notice(code="warm_set_unreadable", message=message))
        found = [each for name in self._wanted for each in (last if name == LAST else [name])]
        return list(dict.fromkeys(found))

    async def _load(self, name: str) -> None:
        try:
            generation = (await self._find(name)).generation
            if generation.digest in self._engine.residences():
                return
            if not self._fits(self._predict(generation)):
                message = f"{name} does not fit beside what is loaded"
                self._events.emit(events.Notice(code="preload_skipped", message=message))
                return
            await self._engine.load(generation)
        except GatewayError as error:
            self._events.emit(events.Notice(code="preload_failed", message=f"{name}: {error.message}"))

    def _fits(self, size: int) -> bool:
        """With nothing evicted; as long as no device is up nobody knows."""
        up = [device for device in self._engine.devices() if device.up]
        return not up or any(device.used + size <= device.budget for device in up)


def _read(path: str) -> list[str]:
    """Nothing, when there is no file. Raises ValueError for one that is broken."""
    try:
        with open(path, "rb") as stream:
            return msgspec.json.decode(stream.read(), type=list[str])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}") from error


def _write(path: str, names: list[str]) -> None:
    atomic.write(path, msgspec.json.encode(names))

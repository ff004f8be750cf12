"""A volume, a real store and ledger, an engine that keeps to its rules, and a catalog that looks when it is told to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gateway import events
from gateway.catalog.catalog import Catalog
from gateway.catalog.lookup import Found
from gateway.engine.engine import DeviceState, Residence, Vectors
from gateway.errors import GatewayError, LoadFailed
from gateway.host.wire import Options
from gateway.model import SUBMODULE, Generation, ModelId
from gateway.settings import Settings
from gateway.volume.bases import Base
from gateway.volume.directory import Directory, read
from gateway.volume.generations import Store
from gateway.volume.settle import Observation, Snapshot

M = "finetuned/m"
DEADLINE = 300.0  # seconds; it only ends a test that hangs


def vector(generation: Generation, text: str) -> npt.NDArray[np.float64]:
    """What the engine below makes of a text: other weights, other numbers."""
    seed = int.from_bytes(hashlib.sha256(f"{generation.digest} {text}".encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(generation.manifest.dim)


class Engine:
    """A device without a device: only what it was told to keep may be loaded, and its files must be there."""

    def __init__(self) -> None:
        self.live: dict[str, Generation] = {}
        self.pinned: set[str] = set()
        self.deadlines: list[float | None] = []  # of the requests that came
        self.flows: list[str] = []  # likewise: whose they are
        self.loaded: dict[str, Generation] = {}
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.failure: Exception | None = None
        self.roomy = True  # whether two generations fit
        self.withdraws: dict[str, Callable[[], Awaitable[None]]] = {}  # what replaces it before it is loaded, once
        self.bad: set[int] = set()  # loads that fail, counted from when this was set
        self.quarantine: dict[str, float] = {}
        self.gate = asyncio.Event()  # loads wait for it
        self.gate.set()
        self.loading = asyncio.Event()  # a load has begun

    async def embed(
        self,
        generation: Generation,
        texts: list[str],
        options: Options,
        deadline: float | None = None,
        *,
        flow: str = "",
    ) -> Vectors:
        self.deadlines.append(deadline)
        self.flows.append(flow)
        await self.load(generation)
        vectors = np.stack([vector(generation, text) for text in texts]).astype("<f4")
        return Vectors(vectors.tobytes(), len(texts), generation.manifest.dim, 1, 0.0, 0.0, 0.0)

    async def load(self, generation: Generation) -> None:
        assert generation.digest in self.live, "a host was never told of this generation"
        self.loading.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if withdraw := self.withdraws.pop(generation.digest, None):
            await withdraw()
            raise LoadFailed("the model was withdrawn before it was loaded")
        if self.bad:
            self.bad = {number - 1 for number in self.bad}
            if 0 in self.bad:
                self.bad = set()
                raise LoadFailed("this one is bad")
        assert generation.digest in self.live, "it was retired while it was loaded"
        for file in generation.manifest.files:
            assert os.path.getsize(os.path.join(generation.path, file))
        self.loads.append(generation.short)
        self.loaded[generation.digest] = generation

    async def begins(self) -> None:
        """Until a load has begun. The bound only ends a test that would hang."""
        await asyncio.wait_for(self.loading.wait(), DEADLINE)

    async def unload(self, digest: str) -> None:
        self.unloads.append(digest[:12])
        self.loaded.pop(digest, None)

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        self.live = {generation.digest: generation for generation in live}
        assert len(self.live) == len(live), "a generation is named once"
        self.pinned = {generation.digest for generation in pinned}
        assert self.pinned <= self.live.keys(), "what is pinned is live"
        self.loaded = {digest: each for digest, each in self.loaded.items() if digest in self.live}

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        return self.roomy

    def residences(self) -> dict[str, list[Residence]]:
        return {
            digest: [Residence(digest, "cpu", "loaded", 10, 0, digest in self.pinned, 1.0 + number)]
            for number, digest in enumerate(self.loaded)
        }

    def quarantined(self, digest: str) -> float | None:
        return self.quarantine.get(digest)

    def devices(self) -> list[DeviceState]:
        return [DeviceState("cpu", True, 1, 10 * len(self.loaded), 1000, 0, 0, 0)]

    @property
    def ready(self) -> bool:
        return True


class CountingStore(Store):
    """Remembers what it was asked to copy."""

    def __init__(self, state_dir: str) -> None:
        super().__init__(state_dir)
        self.accepted: list[str] = []

    def accept(self, directory: Directory, root: str, base: Base | None = None) -> Generation:
        self.accepted.append(directory.model.path)
        return super().accept(directory, root, base)


class World:
    """A volume, and a gateway's catalog over it that is told of a look when a test says so."""

    def __init__(self, base: Path, *, keep: int = 2, **options: Any) -> None:
        self.base = base
        self.root = base / "models"
        self.root.mkdir(exist_ok=True)
        self.state = base / "state"
        self.store = CountingStore(str(self.state))
        self.store.sweep()
        self.engine = Engine()
        self.told: list[events.Event] = []
        tell = self.events = events.Events()
        tell.subscribe(self.told.append)
        self.emit = tell.emit
        self.again: list[ModelId | None] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.now = 0.0
        self.settings = Settings(models_dir=str(self.root), state_dir=str(self.state), keep_generations=keep, **options)
        self.catalog = Catalog(
            self.settings,
            self.store,
            self.engine,
            tell,
            spawn=self.spawn,
            look_again=self.again.append,
            clock=lambda: self.now,
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    async def quiet(self) -> None:
        """Until nothing runs. What a task raises, which would end the gateway, comes out here."""
        while pending := {task for task in self.tasks if not task.done()}:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in self.tasks:
            task.result()

    def snapshot(self, waiting: str = "", only: str | None = None) -> Snapshot:
        places = ("*/config.json", "*/*/config.json", "*/*/[0-9]*/config.json")
        paths = [
            path for place in places for path in self.root.glob(place) if not SUBMODULE.fullmatch(path.parent.name)
        ]
        seen = {}
        for path in sorted(path.parent for path in paths):
            model = ModelId.of(str(path.relative_to(self.root)))
            directory = read(model, str(path), str(self.root))
            assert directory is not None
            held = waiting if only in (None, model.path) else ""
            seen[model] = Observation(directory=directory, settled=not held, waiting=held, since=0.0)
        return Snapshot(observations=seen, removed=frozenset(self.catalog.served().keys() - seen.keys()), due=None)

    def see(self, waiting: str = "", only: str | None = None) -> None:
        """One look. With `waiting`, all directories (or `only` one) have not settled."""
        self.catalog.reconcile(self.snapshot(waiting, only))

    async def look(self) -> None:
        """One look and all that follows from it, and the next one, which finds nothing new."""
        self.see()
        await self.quiet()
        self.see()
        await self.quiet()

    def put(self, source: str, path: str = M) -> None:
        """The directory is now a copy of `source`, by a rename."""
        target, fresh = self.root / path, self.base / "fresh"
        shutil.copytree(source, fresh)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(target)

    def find(self, spelling: str = M) -> Generation:
        """What is live."""
        return self.catalog.live(self.catalog.parse(spelling))[1]

    async def ask(self, spelling: str = M, key: str = "") -> Found:
        """What a request would run."""
        return await self.catalog.find(self.catalog.parse(spelling), key)

    def fails(self, spelling: str = M) -> GatewayError:
        with pytest.raises(GatewayError) as failure:
            self.find(spelling)
        return failure.value

    async def refused(self, spelling: str = M) -> GatewayError:
        with pytest.raises(GatewayError) as failure:
            await self.ask(spelling)
        return failure.value

    async def swap(self, *sources: str, path: str = M) -> list[Generation]:
        """One drop after the other; what was live after each."""
        live = []
        for source in sources:
            self.put(source, path)
            await self.look()
            live.append(self.find(path))
        return live

    def shown(self, path: str = M) -> dict[str, Any]:
        return self.catalog.show(ModelId.of(path))

    def heard(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    async def restarted(self, *, keep: int = 2) -> World:
        """Another gateway over the same volume and state, which has not looked yet."""
        await self.quiet()
        world = World(self.base, keep=keep)
        await world.catalog.restore()
        return world

"""Replicas in this process, with real hosts, in place of those of a cluster: what Ray does between them and the engine
is left out, and done by the test's own hand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway import events
from gateway.cluster.engine import RayEngine
from gateway.cluster.messages import Lost, Need
from gateway.cluster.replica import Config, Replica
from gateway.engine.routing import Choices
from gateway.host import wire
from gateway.model import Generation, ModelId
from gateway.volume import source
from gateway.volume.generations import Store
from gateway.wish import AUTO, Wish

FAULTY = (sys.executable, "-m", "tests.engine.faulty_host")
DEADLINE = 300.0


class Nearby:
    """By name. `lost` are those that nothing comes back from."""

    def __init__(self, replicas: dict[str, Replica]) -> None:
        self.replicas = replicas
        self.lost: set[str] = set()
        self.asked: list[str] = []
        self.answered: list[str] = []  # also with a refusal
        self.joined = 0
        self._choices = Choices()

    async def join(self, *, again: bool = False) -> None:
        self.joined += 1

    async def call(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> tuple[bytes, wire.Payload]:
        chosen = self._choose(need, avoid)
        async with asyncio.timeout(seconds):
            answer = await chosen.call(need, avoid, frame)
        self.answered.append(chosen.told().name)
        return answer

    async def stream(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> AsyncIterator[bytes]:
        async for piece in self._choose(need, avoid).stream(need, avoid, frame):
            yield piece

    async def follow(self, gateway: str, told: Mapping[str, int]) -> list[bytes]:
        return [await replica.follow(gateway, told) for replica in self._there()]

    async def keep(self, gateway: str, version: int, live: Collection[str], pinned: Collection[str]) -> None:
        for replica in self._there():
            await replica.keep(gateway, version, live, pinned)

    async def unload(self, digest: str) -> None:
        for replica in self._there():
            await replica.unload(digest)

    async def leave(self) -> None:
        pass

    def _there(self) -> list[Replica]:
        found = [replica for name, replica in self.replicas.items() if name not in self.lost]
        if not found:
            raise Lost("there is none")
        return found

    def _choose(self, need: Need, avoid: Sequence[str]) -> Replica:
        names = [name for name in self.replicas if name.partition("/")[0] not in avoid] or list(self.replicas)
        told = [self.replicas[name].told() for name in names]
        name = names[self._choices.choose(told, [0.0] * len(told), need.digest, need.size, need.loading)]
        self.asked.append(name)
        if name in self.lost:
            self.replicas.pop(name)
            raise Lost(name)
        return self.replicas[name]


class Rig:
    def __init__(self, fleet: Nearby, root: Path, store: Store) -> None:
        self.fleet = fleet
        self.root = root
        self.store = store
        self.told: list[events.Event] = []
        self.engines: list[RayEngine] = []

    def engine(self, **options: Any) -> RayEngine:
        """One more gateway's."""
        bus = events.Events()
        bus.subscribe(self.told.append)
        chosen: dict[str, Any] = {
            "names": lambda digest: (digest[:4],),
            "sources": lambda digest: tuple(path.name for path in self.root.iterdir()),
            "predict": lambda generation: generation.manifest.parameters * 4,
            "wish": lambda generation: Wish(AUTO, AUTO),
            "weight": lambda digest: 1.0,
            "patience": DEADLINE,
        }
        engine = RayEngine(self.fleet, bus, **chosen | options)
        self.engines.append(engine)
        return engine

    def accept(self, name: str) -> Generation:
        found = source.find(str(self.root), ModelId(None, name))
        assert found is not None
        return self.store.accept(found, str(self.root))

    def of(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def rig(
    tmp_path: Path, names: Sequence[str] = ("one/cpu", "two/cpu"), *, budget: int = 0, **views: Path
) -> AsyncIterator[Rig]:
    """`views` are what single nodes have for the volume."""
    root = tmp_path / "models"
    replicas = {}
    for name in names:
        node = name.partition("/")[0]
        config = Config(
            host={"memory_budget": budget, "compute_threads": 1},
            device="cpu",
            models_dir=str(views.get(node, root)),
            state_dir=str(tmp_path / "{node}"),
            allow_pickle=False,
            copy_budget=0,
            in_place=False,
            hang_timeout=DEADLINE,
            load_timeout=DEADLINE,
            command=FAULTY,
        )
        replicas[name] = Replica(config, node, name)
    store = Store(str(tmp_path / "gateway"))
    store.sweep()
    made = Rig(Nearby(dict(replicas)), root, store)
    try:
        await asyncio.gather(*(replica.start() for replica in replicas.values()))
        yield made
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas.values()))

"""A catalog over real model directories, and the knowledge bases of a gateway that has it.

Every generation makes vectors of its own of a text, so that what meets an index of another one is seen: a text finds
itself with a cosine of 1 where query and index belong together, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gateway import events
from gateway.ask.bases import KnowledgeBases
from gateway.ask.first_use import FirstUse
from gateway.ask.follow import Follow
from gateway.ask.holds import Holds
from gateway.ask.passage import Chunk, Document, Index, Row, key
from gateway.ask.rebuild import Rebuild
from gateway.ask.retrieval import Retrieval, RetrieveRequest
from gateway.ask.store import Store
from gateway.engine.engine import Vectors
from gateway.host.wire import Options
from gateway.model import Generation
from gateway.service import Service
from gateway.tenants.caller import Caller
from gateway.volume.pulls import Pulls
from tests.ask.memory_store import MemoryStore
from tests.ask.stores import chunks, document
from tests.catalog.world import M, World

SAME = 0.999  # a cosine of the same text in the same generation, and of nothing else


class LineCutter:
    """A chunk for each line. `label` says so, with a suffix that a test may change."""

    def __init__(self) -> None:
        self.suffix = ""

    def label(self, generation: Generation) -> str:
        return f"lines{self.suffix}"

    async def cut(self, generation: Generation, document: Document) -> list[Chunk]:
        return chunks(document)


class Asked:
    """`world` is what is served; `bases` and `follow` are a gateway's, over `store`."""

    def __init__(self, base: Path, store: Store | None = None, world: World | None = None, **options: Any) -> None:
        self.world = world or World(base, **options)
        self.store = store or MemoryStore()
        self.held = Holds(str(self.world.state))
        self.world.catalog.hold(self.held.digests)
        pulls = Pulls(self.world.settings, self.world.events, spawn=self.world.spawn, look_again=lambda: None)
        self.service = Service(self.world.catalog, self.world.engine, pulls, self.world.settings)
        self.cutter = LineCutter()
        self.now = 0.0
        opened = FirstUse(lambda: self.store, lambda: True)
        tell = self.world.events
        self.follow = Follow(opened, self.service, self.held, self.cutter, tell, clock=lambda: self.now)
        self.bases = KnowledgeBases(self.service, opened, self.held, self.cutter.label, self.follow)

    def of(self, tenant: str, **caller: Any) -> KnowledgeBases:
        return self.bases.on_behalf_of(self.service.on_behalf_of(Caller(tenant=tenant, key=tenant, **caller)))

    async def add(self, *documents: Document, name: str = "papers", model: str = M) -> Row:
        """Into the documents and the live index, as ingestion does."""
        row = await self.bases.ensure(name, model)
        await self.store.put_documents(row.kb, documents)
        assert row.live is not None
        await self.put(row.live, *documents)
        return row

    async def put(self, index: Index, *documents: Document) -> None:
        found = await self.service.find(f"{index.model}@{index.generation}")
        rebuild = Rebuild(self.store, self.service, self.cutter)
        await rebuild.fill(index, found.generation, lambda done, total: None, _always)

    async def row(self, name: str = "papers") -> Row:
        return await self.store.row(key("", name))

    async def live(self, name: str = "papers") -> str:
        row = await self.row(name)
        assert row.live is not None
        return row.live.generation

    async def ask(self, query: str, **more: Any) -> Retrieval:
        return await self.bases.retrieve(RetrieveRequest(kb="papers", query=query, **more))

    def heard(self, kind: type[events.Event]) -> list[Any]:
        return self.world.heard(kind)


async def _always() -> bool:
    return True


class Reranker:
    """The engine's other half, for a test: the more of the query's words a text has, the better."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def rerank(
        self, generation: Generation, query: str, texts: list[str], options: Options, **more: Any
    ) -> Vectors:
        self.asked.append(len(texts))
        wanted = set(query.split())
        scores = np.array([len(wanted & set(text.split())) for text in texts], dtype="<f4")
        return Vectors(scores.tobytes(), len(texts), 1, 1, 0.0, 0.0, 0.0)


PAPER = document("paper", "the beam is bent by a dipole", "a quadrupole focuses the beam", "the cavity accelerates it")
NOTES = document("notes", "vacuum is measured in millibar", "the pump was changed on monday")

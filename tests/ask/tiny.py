"""Knowledge bases without a gateway around them: the real ingestion, over a service that embeds by arithmetic."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np

from gateway import events
from gateway.ask.bases import KnowledgeBases
from gateway.ask.cutting import DocumentCutter
from gateway.ask.first_use import FirstUse
from gateway.ask.holds import Holds
from gateway.ask.indexing import Indexer
from gateway.ask.ingest import Ingestion
from gateway.ask.parser import Parser
from gateway.ask.passage import Document, Index
from gateway.ask.store import Store
from gateway.catalog.lookup import Found
from gateway.errors import DeadlineExceeded, GatewayError
from gateway.model import Generation, ModelId
from gateway.requests import Embedding, EmbedRequest
from gateway.service import Meter, Service
from gateway.settings import Settings
from gateway.tenants.caller import OPEN, Caller
from tests.ask.memory_store import MemoryStore
from tests.making import generation, minilm
from tests.running import DEADLINE

MODEL = ModelId("finetuned", "tiny")


def vector(text: str, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same for the same text, and of unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    found = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return found / np.linalg.norm(found)


class TinyService:
    """As much of the service as knowledge bases ask for. `gate` holds all embedding back while it is clear; `refusals`
    are raised first, one for each request; `most` makes it slow. `seen` has who embedded which texts."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(models_dir="models", state_dir="state", **settings)
        self.caller: Caller = OPEN
        self.generation: Generation = generation(minilm())
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.refusals: list[GatewayError] = []
        self.seen: list[tuple[str, list[str]]] = []
        self.most: int | None = None  # texts that are done before the deadline of a request
        self.meter: Meter = lambda done: None

    def on_behalf_of(self, caller: Caller) -> TinyService:
        other = TinyService.__new__(TinyService)
        vars(other).update(vars(self))
        other.caller = caller
        return other

    def metered(self, meter: Meter) -> TinyService:
        other = self.on_behalf_of(self.caller)
        other.meter = meter
        return other

    async def find(self, spelling: str | None) -> Found:
        return Found(MODEL, self.generation)

    def live(self, spelling: str | None) -> tuple[ModelId, Generation]:
        return MODEL, self.generation

    async def embed(self, request: EmbedRequest) -> Embedding:
        assert len(request.texts) <= self.settings.max_inputs
        self.begun.set()
        await self.gate.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        texts = cast(list[str], request.texts)
        if self.most is not None and len(texts) > self.most:
            raise DeadlineExceeded("no answer within 60 s")
        self.seen.append((self.caller.tenant, texts))
        dim = self.generation.manifest.dim
        data = np.stack([vector(text, dim) for text in texts]).tobytes()
        tokens = sum(len(text.split()) for text in texts)
        done = Embedding(
            model=MODEL,
            generation=self.generation,
            data=data,
            rows=len(texts),
            dim=dim,
            normalized=True,
            tokens=tokens,
        )
        self.meter(done)
        return done


class Nobody:
    """Follows no model."""

    def look_again(self) -> None: ...

    def ask(self, kb: str) -> None: ...

    def forget(self, kb: str) -> None: ...


class Desk:
    """Ingestion and all it needs; `told` are its events. A second one over the same `store` is a restarted gateway."""

    def __init__(self, state_dir: str, store: Store, service: TinyService, group: asyncio.TaskGroup) -> None:
        self.store, self.service = store, service
        self.told: list[events.Event] = []
        tell = events.Events()
        tell.subscribe(self.told.append)
        self.parser = Parser(most_bytes=10**6)
        cutter = DocumentCutter(self.parser)
        opened = FirstUse(lambda: store, lambda: True)
        real = cast(Service, service)
        self.bases = KnowledgeBases(real, opened, Holds(state_dir), cutter.label, Nobody())
        self.tasks: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            self.tasks.append(group.create_task(work))
            return self.tasks[-1]

        self.ingestion = Ingestion(opened, self.parser, Indexer(real, cutter, tell), tell, spawn)

    def of(self, tenant: str) -> KnowledgeBases:
        return self.bases.on_behalf_of(cast(Service, self.service.on_behalf_of(Caller(tenant=tenant))))

    async def live(self, name: str = "papers") -> Index:
        row = await self.bases.get(name)
        assert row.live is not None
        return row.live

    async def texts(self, name: str = "papers") -> dict[str, str]:
        """The text of every document, put together of its chunks in the live index; by the document's name."""
        live = await self.live(name)
        found = {}
        for head in await self.store.list_documents(live.kb):
            text = ""
            for chunk in await self.store.chunks(live, head.id):
                text += chunk.text[len(text) - chunk.start :]
            found[head.name] = text
        return found

    async def settle(self, name: str = "papers") -> None:
        """Until everything that was put in is indexed or has failed."""
        row = await self.bases.get(name)
        documents: list[Document | Any] = list(await self.store.list_documents(row.kb))
        assert await self.ingestion.settled(row.kb, [each.id for each in documents], DEADLINE)


@asynccontextmanager
async def desk(state_dir: str, store: Store | None = None, **settings: Any) -> AsyncIterator[Desk]:
    async with asyncio.TaskGroup() as group:
        made = Desk(state_dir, store or MemoryStore(), TinyService(**settings), group)
        try:
            yield made
        finally:
            for task in made.tasks:
                task.cancel()
            await made.parser.close()

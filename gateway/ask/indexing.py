"""Documents to vectors in an index: cut, embedded and written, one batch while the next is made ready.

Queries go first: what is computed here is a flow of its own on the device, so that a query waits for one device call at
most. It waits for as long as it takes, and a busy or restarting device is no failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import numpy as np

from gateway import events
from gateway.ask.cutting import DocumentCutter
from gateway.ask.embedding import charged, embed_all, spelling
from gateway.ask.passage import Chunk, Document, Index
from gateway.ask.store import Store, Vectors
from gateway.errors import (
    DeadlineExceeded,
    DocumentTooLarge,
    DocumentUnreadable,
    GatewayError,
    Overloaded,
    ShuttingDown,
    Unavailable,
)
from gateway.service import Service
from gateway.tenants.caller import Caller

CALL: Final = 64  # chunks that one request to the device has
CALLS: Final = 3  # requests at once: one is computed, one is tokenized, one waits
BATCH: Final = 512  # chunks that are written at once, of whole documents
BATCHES: Final = 2  # that are under way at once: one is written while the next is embedded
AHEAD: Final = 16  # documents that are cut at once
LEAST_WAIT: Final = 0.2  # seconds until the device is asked again
MOST_WAIT: Final = 10.0
TRIES: Final = 8  # of one request; then it is whoever wants it indexed that waits
FLOW: Final = "knowledge bases of "

Failures = dict[str, GatewayError]  # by the document's id
OnDone = Callable[[Sequence[Document], int], None]
Batch = list[tuple[Document, list[Chunk]]]


class Indexer:
    """`service` is the gateway's own."""

    def __init__(self, service: Service, cutter: DocumentCutter, tell: events.Events) -> None:
        self._service = service
        self._cutter = cutter
        self._events = tell

    def _for(self, kb: str) -> Service:
        """What embeds documents of a tenant, which pays for it: all models are there for it, and it takes its turn
        beside the queries."""
        owner = kb.rpartition("/")[0]
        return charged(self._service.on_behalf_of(Caller(tenant=FLOW + owner)), self._events, kb)

    async def put(
        self, store: Store, index: Index, documents: Sequence[Document], done: OnDone = lambda documents, chunks: None
    ) -> Failures:
        """Has these documents, and nothing else of them, in the index. `done` is told what was written, and how many
        chunks that were. Raises what the store and the service do, for what is no single document's fault."""
        service = self._for(index.kb)
        failures: Failures = {}
        running: set[asyncio.Task[None]] = set()
        try:
            async for batch in self._batches(service, index, documents, failures):
                while len(running) >= BATCHES:
                    running = await _first(running)
                running.add(asyncio.create_task(self._write(service, store, index, batch, done)))
            while running:
                running = await _first(running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return failures

    async def _batches(
        self, service: Service, index: Index, documents: Sequence[Document], failures: Failures
    ) -> AsyncIterator[Batch]:
        """Whole documents, of so many chunks together that embedding and writing them is worth it."""
        found = await service.find(spelling(index))
        batch: Batch = []
        for at in range(0, len(documents), AHEAD):
            group = documents[at : at + AHEAD]
            cuts = await asyncio.gather(
                *(self._cutter.cut(found.generation, each) for each in group), return_exceptions=True
            )
            for document, cut in zip(group, cuts, strict=True):
                if isinstance(cut, DocumentUnreadable | DocumentTooLarge):
                    failures[document.id] = cut
                elif isinstance(cut, BaseException):
                    raise cut
                else:
                    batch.append((document, cut))
                if sum(len(chunks) for _, chunks in batch) >= BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    async def _write(self, service: Service, store: Store, index: Index, batch: Batch, done: OnDone) -> None:
        documents = [document for document, _ in batch]
        chunks = [chunk for _, cut in batch for chunk in cut]
        vectors = await self._embed(service, index, chunks)
        await store.upsert(index, documents, chunks, vectors, whole=True)
        done(documents, len(chunks))

    async def _embed(self, service: Service, index: Index, chunks: Sequence[Chunk]) -> Vectors:
        """[len(chunks), index.dim]"""
        size = min(CALL, service.settings.max_inputs)
        room = asyncio.Semaphore(CALLS)

        async def call(part: Sequence[Chunk]) -> Vectors:
            async with room:
                return await _patiently(lambda: embed_all(service, index, [chunk.text for chunk in part]))

        calls = [asyncio.ensure_future(call(chunks[at : at + size])) for at in range(0, len(chunks), size)]
        try:
            found = await asyncio.gather(*calls)
        finally:
            for each in calls:
                each.cancel()
        return np.concatenate(found) if found else np.zeros((0, index.dim), np.float32)


async def _patiently(work: Callable[[], Awaitable[Vectors]]) -> Vectors:
    wait = LEAST_WAIT
    for _ in range(TRIES):
        try:
            return await work()
        except ShuttingDown:
            raise
        except (Overloaded, Unavailable, DeadlineExceeded) as error:
            await asyncio.sleep(min(MOST_WAIT, max(wait, error.retry_after or 0.0)))
            wait = min(MOST_WAIT, 2 * wait)
    return await work()


async def _first(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that still run once one has ended; raises what that one did."""
    ended, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in ended:
        running.discard(task)
    for task in ended:
        task.result()
    return set(left)

"""One index made to hold what the documents are: the difference is read, and worked off.

It does not matter how the difference came about: an index that is new and empty, one that a process left behind when it
was killed, or one that was live before and has missed what changed since, are all brought up to the same state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import numpy as np

from gateway.ask.embedding import embed_all
from gateway.ask.passage import Chunk, Document, Head, Index
from gateway.ask.store import Store, Vectors
from gateway.errors import DocumentNotFound
from gateway.model import Generation
from gateway.service import Service
from gateway.tenants.caller import Caller

BACKGROUND: Final = Caller(tenant="(reindex)")  # a flow of its own, under a name that no tenant can have
TEXTS: Final = 32  # of one request to the model: nobody waits long behind it
TOKENS: Final = 256  # of a chunk, at most
YIELD_SECONDS: Final = 0.2  # that a batch waits at most for a moment in which nobody asks anything
DOCUMENTS: Final = 16  # put into the index at once

Progress = Callable[[int, int], None]  # documents done, and all there are
Wanted = Callable[[], Awaitable[bool]]


class Cutter(Protocol):
    """Cuts documents for the model that will embed them."""

    def label(self, generation: Generation) -> str:
        """Equal for generations that cut alike: `Index.chunking`."""

    async def cut(self, generation: Generation, document: Document) -> list[Chunk]:
        """Raises DocumentUnreadable."""


class Rebuild:
    """`service` is everybody's. What it is asked for rides in a flow of its own, a small batch at a time, and each
    batch lets requests go first."""

    def __init__(self, store: Store, service: Service, cutter: Cutter) -> None:
        self._store = store
        self._foreground = service
        self._service = service.on_behalf_of(BACKGROUND)
        self._cutter = cutter
        self._empty: dict[str, str] = {}  # documents without chunks, and their digests
        most = service.settings.max_request_tokens
        self._texts = min(TEXTS, service.settings.max_inputs, max(1, most // TOKENS) if most else TEXTS)

    async def fill(self, index: Index, generation: Generation, progress: Progress, wanted: Wanted) -> bool:
        """Until the index has every document as it is now, and nothing else; whether that was reached before `wanted`
        said that nobody wants it any more. Documents may change meanwhile."""
        while True:
            gone, changed, total = await self._difference(index)
            if gone:
                await self._store.remove(index, gone)
            progress(total - len(changed), total)
            if not changed:
                return True
            done = total - len(changed)
            for first in range(0, len(changed), DOCUMENTS):
                if not await wanted():
                    return False
                part = changed[first : first + DOCUMENTS]
                await self._put(index, generation, part)
                done += len(part)
                progress(done, total)

    async def _difference(self, index: Index) -> tuple[list[str], list[str], int]:
        """Documents that the index has and should not, those that it should have and has not, or not as they are, and
        how many there are."""
        there = await self._store.indexed(index)
        heads = await self._store.list_documents(index.kb)
        gone = list(there.keys() - {head.id for head in heads})
        changed = [head.id for head in heads if there.get(head.id) != head.digest and self._has_chunks(head)]
        return gone, changed, len(heads)

    def _has_chunks(self, head: Head) -> bool:
        """False for what was found to have none: an index never has it, and it is never missing."""
        return self._empty.get(head.id) != head.digest

    async def _put(self, index: Index, generation: Generation, ids: Sequence[str]) -> None:
        documents, chunks = list[Document](), list[Chunk]()
        for each in ids:
            try:
                document = await self._store.get_document(index.kb, each)
            except DocumentNotFound:  # deleted since the difference was read
                continue
            documents.append(document)
            cut = await self._cutter.cut(generation, document)
            if not cut:
                self._empty[document.id] = document.digest
            chunks += cut
        vectors = [await self._embed(index, chunks[at : at + self._texts]) for at in range(0, len(chunks), self._texts)]
        together = np.concatenate(vectors) if vectors else np.empty((0, index.dim), dtype=np.float32)
        if documents:
            await self._store.upsert(index, documents, chunks, together)

    async def _embed(self, index: Index, chunks: Sequence[Chunk]) -> Vectors:
        await self._give_way()
        return await embed_all(self._service, index, [chunk.text for chunk in chunks])

    async def _give_way(self) -> None:
        """Requests go first; but a gateway that is never quiet still gets there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(YIELD_SECONDS):
                await self._foreground.becomes_quiet()

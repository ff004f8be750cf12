"""Small knowledge bases for the tests of the stores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from gateway.ask.passage import Chunk, Document, Hit, Index, Page, Row, Value, chunk_id, document_id
from gateway.ask.store import Store, Vectors

DIM = 8


def document(name: str, *texts: str, source: str = "", **metadata: Value) -> Document:
    """Its chunks are the `texts`, a line each, and each line is a page."""
    text, pages = "", []
    for number, line in enumerate(texts, 1):
        pages.append(Page(number, len(text), len(text) + len(line)))
        text += line + "\n"
    return Document(
        id=document_id(name),
        name=name,
        source=source or f"file:{name}",
        text=text,
        pages=tuple(pages),
        metadata=metadata,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        added=1.5,
    )


def chunks(*documents: Document) -> list[Chunk]:
    return [
        Chunk(
            id=chunk_id(document.id, index),
            document=document.id,
            index=index,
            start=page.start,
            end=page.end,
            text=document.text[page.start : page.end],
            page=page.number,
            heading=f"of {document.name}",
        )
        for document in documents
        for index, page in enumerate(document.pages)
    ]


def toward(*axes: float) -> Vectors:
    """A vector [DIM] with these first numbers."""
    vector = np.zeros(DIM, dtype=np.float32)
    vector[: len(axes)] = axes
    return vector


def spread(count: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


async def filled(store: Store, *documents: Document, name: str = "papers", vectors: Vectors | None = None) -> Index:
    """A knowledge base of these documents, indexed and live."""
    row = await store.create("", name)
    await store.put_documents(row.kb, documents)
    index = await indexed(store, row, *documents, vectors=vectors)
    assert await store.switch(row.kb, row.version, index)
    return index


async def indexed(store: Store, row: Row, *documents: Document, vectors: Vectors | None = None) -> Index:
    index = await store.create_index(row.kb, "finetuned/x", "a" * 64, DIM, "256 tokens")
    cut = chunks(*documents)
    await store.upsert(index, documents, cut, spread(len(cut)) if vectors is None else vectors)
    await store.finish(index)
    return index


def ids(found: Sequence[Chunk]) -> list[str]:
    return [chunk.id for chunk in found]


def recalling(uri: str) -> Store:
    """A store in a directory whose searches wait until the index is held in memory as it is now."""
    from gateway.ask.lance import LanceStore  # the extra

    class Recalling(LanceStore):
        async def search(self, index: Index, *arguments: Any, **options: Any) -> list[Hit]:
            await super().search(index, *arguments, **options)
            await self._memory.settled()
            return await super().search(index, *arguments, **options)

    return Recalling(uri, memory=2**26, rest=0.0)

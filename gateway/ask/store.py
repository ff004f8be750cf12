"""Where knowledge bases lie: the seam between what is asked and what keeps it.

What returns is durable: documents that `put_documents` has returned for outlive a power cut, and so does an index after
`finish`. Readers see whole calls: nothing of a `put_documents`, an `upsert` or a `remove`, or all of it. Any number of
processes may use one store. One suite of tests (`tests/ask/test_store.py`) holds every implementation to this page.

Every method may raise KnowledgeStoreFailed (the disk or the bucket; try again). Methods that name a `kb` raise
KnowledgeBaseNotFound, and those that name an index IndexGone, once it is not there: the row says which one to use now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.ask.passage import Chunk, Claim, Document, Head, Hit, Index, Row, Where

Vectors = NDArray[np.float32]


class Candidates(msgspec.Struct, frozen=True):
    """What a search has found, best first: a number of each hit. `cosines` is None where the search had no vector,
    `words` (BM25) where it had no text; there 0 is what the text did not find."""

    fused: NDArray[np.float64]
    cosines: NDArray[np.float64] | None = None
    words: NDArray[np.float64] | None = None


Choose = Callable[
    [Candidates], Sequence[tuple[int, float]]
]  # places of those to give, in that order, and their `fused`


def as_found(found: Candidates) -> list[tuple[int, float]]:
    """All of them."""
    return list(enumerate(found.fused.tolist()))


class Store(Protocol):
    @property
    def memory_bytes(self) -> int:
        """Of indexes that this process holds in memory, to search them faster."""

    async def open(self) -> None:
        """Before anything else. Raises KnowledgeDirUnsuitable where nothing can be kept, and AskUnavailable where a
        package is missing; both say what to do."""

    async def close(self) -> None:
        """What runs is finished first."""

    # --- knowledge bases; `kb` is `passage.key(owner, name)`

    async def rows(self, owner: str | None = None) -> list[Row]:
        """All of them, or those of one owner, by key."""

    async def create(self, owner: str, name: str, embedding_model: str = "") -> Row:
        """A new one, empty and without an index. Raises KnowledgeBaseExists: of several that try, one succeeds."""

    async def row(self, kb: str) -> Row:
        """As it is at this moment, by whichever process it was changed."""

    async def switch(self, kb: str, expected_version: int, live: Index, embedding_model: str | None = None) -> bool:
        """Makes `live` answer, if the row still has this version, and says whether: compare and swap. What was live
        becomes the first of `previous`; `live` leaves it. Finish an index before switching to it."""

    async def claimed(self, kb: str) -> Claim:
        """Who has the right to build an index of it, as it is at this moment."""

    async def claim(self, kb: str, before: Claim, holder: str) -> bool:
        """Makes the claim `Claim(holder, before.beat + 1)`, if it still is `before`, and says whether: compare and
        swap. An empty holder gives it back. How long a claim is good for is no matter of the store (`heartbeat`)."""

    async def drop(self, kb: str) -> None:
        """The knowledge base of exactly this key with its documents and indexes. No other, however it is called."""

    # --- documents

    async def put_documents(self, kb: str, documents: Sequence[Document]) -> None:
        """All of them or none, in one step; one of an id that is there replaces it."""

    async def get_document(self, kb: str, document: str) -> Document:
        """Raises DocumentNotFound."""

    async def list_documents(self, kb: str, offset: int = 0, limit: int | None = None) -> list[Head]:
        """By name."""

    async def count_documents(self, kb: str) -> int: ...

    async def delete_document(self, kb: str, document: str) -> None:
        """Of the documents alone: `remove` takes its chunks from an index. Raises DocumentNotFound."""

    # --- indexes

    async def create_index(self, kb: str, model: str, generation: str, dim: int, chunking: str = "") -> Index:
        """A new one, empty; nothing answers with it until `switch`."""

    async def indexes(self, kb: str) -> list[Index]:
        """Every one that is there, oldest first: live, previous, and whatever was begun and never switched to."""

    async def upsert(
        self,
        index: Index,
        documents: Sequence[Document],
        chunks: Sequence[Chunk],
        vectors: Vectors,
        *,
        whole: bool = True,
    ) -> None:
        """Chunks of `documents`, in any order, with their vectors [len(chunks), index.dim] in the same order; replaces
        by the chunks' ids, so that repeating it changes nothing. If `whole`, these are all the chunks of each of the
        documents, and others that the index had of them go in the same step; otherwise they are some."""

    async def remove(self, index: Index, documents: Sequence[str]) -> None:
        """All chunks of these documents; what is not there needs no removing."""

    async def indexed(self, index: Index) -> dict[str, str]:
        """The id of every document that has chunks here -> its digest when it was put: what to do is the difference."""

    async def finish(self, index: Index) -> None:
        """Durable and fast, for now: to be called after a bulk of changes, and again after the next."""

    async def search(
        self,
        index: Index,
        vector: NDArray[Any] | None,
        text: str | None,
        limit: int,
        where: Where | None = None,
        *,
        choose: Choose = as_found,
    ) -> list[Hit]:
        """At most `limit` hits, best first: the nearest to `vector` [dim] by cosine, the best for `text` by BM25, or
        both, fused by reciprocal ranks. `where` is applied before: fewer come back only when no more match. With a
        vector every hit has its cosine, also where only the text found it. `choose` says which of these are given,
        before they are read; it may run on another thread."""

    async def vectors(self, index: Index, chunks: Sequence[str]) -> Vectors:
        """[len(chunks), dim], of these chunk ids in this order; zeros for one that is not there."""

    async def chunks(
        self, index: Index, document: str | None = None, offset: int = 0, limit: int | None = None
    ) -> list[Chunk]:
        """Those of a document by their index, or any."""

    async def count(self, index: Index) -> int:
        """Chunks."""

    async def drop_index(self, index: Index) -> None:
        """Leaves `previous`, and goes once nobody reads it. One that is live stays: ValueError."""

"""A store that forgets: a small real one for tests of what stands above it. It passes the same suite as the others.

Durable only as long as the process; several `MemoryStore(shared=other)` see what one of them wrote, as processes would.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.ask import labels
from gateway.ask.fusion import cosines, fused
from gateway.ask.passage import Chunk, Claim, Document, Head, Hit, Index, Row, Where, key
from gateway.ask.store import Candidates, Choose, Vectors, as_found
from gateway.errors import DocumentNotFound, IndexGone, KnowledgeBaseExists, KnowledgeBaseNotFound

Kept = tuple[Document, Chunk, NDArray[np.float32]]


class MemoryStore:
    memory_bytes = 0  # all of it, and none to search faster

    def __init__(self, shared: MemoryStore | None = None) -> None:
        self._rows: dict[str, Row] = shared._rows if shared else {}
        self._documents: dict[str, dict[str, Document]] = shared._documents if shared else {}
        self._indexes: dict[str, tuple[Index, dict[str, Kept]]] = shared._indexes if shared else {}
        self._claims: dict[str, Claim] = shared._claims if shared else {}

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def rows(self, owner: str | None = None) -> list[Row]:
        return [row for _, row in sorted(self._rows.items()) if owner is None or row.owner == owner]

    async def create(self, owner: str, name: str, embedding_model: str = "") -> Row:
        kb = key(owner, name)
        if kb in self._rows:
            raise KnowledgeBaseExists(f"there is a knowledge base {name} already", knowledge_base=name)
        self._rows[kb] = Row(kb=kb, owner=owner, embedding_model=embedding_model)
        self._documents[kb] = {}
        return self._rows[kb]

    async def row(self, kb: str) -> Row:
        if kb not in self._rows:
            name = kb.rpartition("/")[2]
            raise KnowledgeBaseNotFound(f"there is no knowledge base {name}", knowledge_base=name)
        return self._rows[kb]

    async def switch(self, kb: str, expected_version: int, live: Index, embedding_model: str | None = None) -> bool:
        row = await self.row(kb)
        if row.version != expected_version:
            return False
        self._content(live)
        self._rows[kb] = row.switched(live, embedding_model)
        return True

    async def claimed(self, kb: str) -> Claim:
        await self.row(kb)
        return self._claims.get(kb, Claim())

    async def claim(self, kb: str, before: Claim, holder: str) -> bool:
        await self.row(kb)
        if self._claims.get(kb, Claim()) != before:
            return False
        self._claims[kb] = Claim(holder, before.beat + 1)
        return True

    async def drop(self, kb: str) -> None:
        await self.row(kb)
        del self._rows[kb], self._documents[kb]
        for index in [index for index, _ in self._indexes.values() if index.kb == kb]:
            del self._indexes[index.id]

    async def put_documents(self, kb: str, documents: Sequence[Document]) -> None:
        await self.row(kb)
        self._documents[kb] |= {document.id: document for document in documents}

    async def get_document(self, kb: str, document: str) -> Document:
        await self.row(kb)
        if document not in self._documents[kb]:
            raise DocumentNotFound(f"there is no document {document}", document=document)
        return self._documents[kb][document]

    async def list_documents(self, kb: str, offset: int = 0, limit: int | None = None) -> list[Head]:
        await self.row(kb)
        heads = sorted((Head.of(document) for document in self._documents[kb].values()), key=lambda head: head.name)
        return heads[offset : None if limit is None else offset + limit]

    async def count_documents(self, kb: str) -> int:
        await self.row(kb)
        return len(self._documents[kb])

    async def delete_document(self, kb: str, document: str) -> None:
        await self.get_document(kb, document)
        del self._documents[kb][document]

    async def create_index(self, kb: str, model: str, generation: str, dim: int, chunking: str = "") -> Index:
        await self.row(kb)
        index = Index(
            id=uuid.uuid4().hex,
            kb=kb,
            model=model,
            generation=generation,
            dim=dim,
            chunking=chunking,
            made=time.time(),
        )
        self._indexes[index.id] = (index, {})
        return index

    async def indexes(self, kb: str) -> list[Index]:
        await self.row(kb)
        return sorted((index for index, _ in self._indexes.values() if index.kb == kb), key=lambda index: index.made)

    def _content(self, index: Index) -> dict[str, Kept]:
        if index.id not in self._indexes:
            raise IndexGone("the index was dropped", index=index.id)
        return self._indexes[index.id][1]

    async def upsert(
        self,
        index: Index,
        documents: Sequence[Document],
        chunks: Sequence[Chunk],
        vectors: Vectors,
        *,
        whole: bool = True,
    ) -> None:
        assert vectors.shape == (len(chunks), index.dim)
        if whole:
            await self.remove(index, [document.id for document in documents])
        named = {document.id: document for document in documents}
        content = self._content(index)
        for chunk, vector in zip(chunks, np.asarray(vectors, dtype=np.float32), strict=True):
            content[chunk.id] = (named[chunk.document], chunk, vector.copy())

    async def remove(self, index: Index, documents: Sequence[str]) -> None:
        content = self._content(index)
        for gone in [found for found, (_, chunk, _) in content.items() if chunk.document in set(documents)]:
            del content[gone]

    async def indexed(self, index: Index) -> dict[str, str]:
        return {document.id: document.digest for document, _, _ in self._content(index).values()}

    async def finish(self, index: Index) -> None:
        self._content(index)

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
        kept = {found: entry for found, entry in self._content(index).items() if _matches(entry[0], where)}
        near: dict[str, float] = {}
        if vector is not None and kept:
            values = cosines(vector, np.stack([entry[2] for entry in kept.values()]))
            near = dict(zip(kept, values.tolist(), strict=True))
        words = _bm25(text, {found: entry[1].text for found, entry in kept.items()}) if text else {}
        orders = [sorted(scores, key=lambda found: (-scores[found], found)) for scores in (near, words)]
        best = list(fused(*orders).items())[:limit]
        candidates = Candidates(
            np.array([score for _, score in best]),
            None if vector is None else np.array([near[found] for found, _ in best]),
            np.array([words.get(found, 0.0) for found, _ in best]) if text else None,
        )
        return [
            Hit(
                chunk=kept[found][1],
                name=kept[found][0].name,
                source=kept[found][0].source,
                metadata=kept[found][0].metadata,
                cosine=near.get(found),
                bm25=words.get(found),
                fused=score,
            )
            for found, score in ((best[place][0], score) for place, score in choose(candidates))
        ]

    async def vectors(self, index: Index, chunks: Sequence[str]) -> Vectors:
        content, found = self._content(index), np.zeros((len(chunks), index.dim), dtype=np.float32)
        for place, chunk in enumerate(chunks):
            if chunk in content:
                found[place] = content[chunk][2]
        return found

    async def chunks(
        self, index: Index, document: str | None = None, offset: int = 0, limit: int | None = None
    ) -> list[Chunk]:
        kept = [chunk for _, chunk, _ in self._content(index).values() if document in (None, chunk.document)]
        kept.sort(key=lambda chunk: (chunk.document, chunk.index))
        return kept[offset : None if limit is None else offset + limit]

    async def count(self, index: Index) -> int:
        return len(self._content(index))

    async def drop_index(self, index: Index) -> None:
        row = self._rows.get(index.kb)
        if row is not None:
            self._rows[index.kb] = row.without(index)
        self._indexes.pop(index.id, None)


def _matches(document: Document, where: Where | None) -> bool:
    own = set(labels.of_document(document))
    return all(own & set(group) for group in labels.wanted(where))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _bm25(query: str, texts: dict[str, str], k: float = 1.2, b: float = 0.75) -> dict[str, float]:
    """Robertson and Zaragoza 2009, with the idf that is never negative; only texts that have one of the words."""
    counts = {found: Counter(_words(text)) for found, text in texts.items()}
    mean = sum(map(Counter.total, counts.values())) / max(1, len(counts)) or 1.0
    scores: dict[str, float] = {}
    for word in set(_words(query)):
        having = [found for found, count in counts.items() if count[word]]
        idf = math.log(1 + (len(counts) - len(having) + 0.5) / (len(having) + 0.5))
        for found in having:
            tf, length = counts[found][word], counts[found].total() / mean
            scores[found] = scores.get(found, 0.0) + idf * tf * (k + 1) / (tf + k * (1 - b + b * length))
    return scores

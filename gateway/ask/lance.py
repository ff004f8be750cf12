"""The store of knowledge bases: LanceDB in a directory, and the same in a bucket for several gateways.

A commit of LanceDB is atomic between processes, and its readers see one commit or the next. What it does not do is done
here: files reach the disk before anything is acknowledged or switched to, a pointer is changed by compare and swap, and
an index goes only once nobody reads it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np
from lancedb import AsyncTable
from numpy.typing import NDArray

from gateway.ask import archive, columns, lance_index
from gateway.ask.archive import Archive
from gateway.ask.claims import Claims
from gateway.ask.passage import Chunk, Document, Head, Hit, Index, Row, Where
from gateway.ask.registry import Registry
from gateway.ask.store import Vectors
from gateway.ask.tables import Missing, Tables, any_of, literal
from gateway.errors import IndexGone, KnowledgeBaseNotFound

TIDY_EVERY: Final = 64  # upserts of this process to one index
FRESHNESS: Final = 2.0  # seconds; of a bucket, where each look is a request


class LanceStore:
    """`uri` is a directory, or `s3://bucket/path` with `options` as LanceDB has them (without, the environment's);
    `freshness` is for how many seconds another process's writes may go unseen in a bucket."""

    def __init__(
        self,
        uri: str,
        options: dict[str, str] | None = None,
        cache_dir: str | None = None,
        freshness: float = FRESHNESS,
    ) -> None:
        self._tables = Tables(uri, options)
        self._indexes = self._tables if self._tables.local else Tables(uri, options, freshness)
        self._registry = Registry(self._tables)
        self._claims = Claims(self._tables)
        self._archive = Archive(self._tables)
        self._readers: Counter[str] = Counter()
        self._left = asyncio.Condition()
        self._dropped: set[str] = set()
        self._upserts: Counter[str] = Counter()

    async def open(self) -> None:
        await self._tables.open()
        if self._indexes is not self._tables:
            await self._indexes.open()
        await self._registry.open()
        await self._claims.open()
        await self._sweep()

    async def close(self) -> None:
        await self._tables.close()
        if self._indexes is not self._tables:
            await self._indexes.close()

    async def _sweep(self) -> None:
        """Drops what a `drop` that did not live to its end has left. A new place is registered before it has tables."""
        names = await self._tables.names("")
        places = {place for _, place in await self._registry.rows()}
        for name in names:
            kind, _, rest = name.partition("-")
            if kind in {"documents", "index"} and rest.partition("-")[0] not in places:
                await self._tables.drop(name)

    # --- knowledge bases

    async def rows(self, owner: str | None = None) -> list[Row]:
        return [row for row, _ in await self._registry.rows(owner)]

    async def create(self, owner: str, name: str, embedding_model: str = "") -> Row:
        return await self._registry.create(owner, name, embedding_model)

    async def row(self, kb: str) -> Row:
        return (await self._registry.row(kb))[0]

    async def switch(self, kb: str, expected_version: int, live: Index, embedding_model: str | None = None) -> bool:
        row, place = await self._registry.row(kb)
        if row.version != expected_version:
            return False
        async with self._reading(live):
            await self._indexes.sync(_table_name(live))
            return await self._registry.replace(row, row.switched(live, embedding_model), place)

    async def claim(self, kb: str, holder: str, seconds: float) -> bool:
        return await self._claims.claim(await self._place(kb), holder, seconds)

    async def drop(self, kb: str) -> None:
        _, place = await self._registry.row(kb)
        await self._registry.remove(kb, place)
        for name in await self._tables.names(_prefix(place)):
            await self._gone(name)
        await self._tables.drop(archive.table_name(place))

    # --- documents

    async def put_documents(self, kb: str, documents: Sequence[Document]) -> None:
        await self._archive.put(await self._place(kb), documents)

    async def get_document(self, kb: str, document: str) -> Document:
        return await self._archive.get(await self._place(kb), document)

    async def list_documents(self, kb: str, offset: int = 0, limit: int | None = None) -> list[Head]:
        heads = await self._archive.heads(await self._place(kb))
        return heads[offset : None if limit is None else offset + limit]

    async def count_documents(self, kb: str) -> int:
        return await self._archive.count(await self._place(kb))

    async def delete_document(self, kb: str, document: str) -> None:
        await self._archive.delete(await self._place(kb), document)

    async def _place(self, kb: str) -> str:
        return (await self._registry.row(kb))[1]

    # --- indexes

    async def create_index(self, kb: str, model: str, generation: str, dim: int, chunking: str = "") -> Index:
        index = Index(
            id=f"{await self._place(kb)}-{uuid.uuid4().hex[:16]}",
            kb=kb,
            model=model,
            generation=generation,
            dim=dim,
            chunking=chunking,
            made=time.time(),
        )
        name = _table_name(index)
        await lance_index.prepare(await self._indexes.made(name, columns.of_index(index)))
        await self._indexes.sync(name)
        return index

    async def indexes(self, kb: str) -> list[Index]:
        found = []
        for name in await self._tables.names(_prefix(await self._place(kb))):
            try:
                async with self._indexes.using(name) as table:
                    found.append(columns.index_of(await table.schema()))
            except Missing:
                continue  # dropped since it was listed
        return sorted(found, key=lambda index: (index.made, index.id))

    async def upsert(
        self,
        index: Index,
        documents: Sequence[Document],
        chunks: Sequence[Chunk],
        vectors: Vectors,
        *,
        whole: bool = True,
    ) -> None:
        rows = columns.of_chunks(index, documents, chunks, vectors)
        async with self._reading(index) as table:
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if whole and documents:
                merge = merge.when_not_matched_by_source_delete(any_of("document", [each.id for each in documents]))
            await merge.execute(rows)
            await self._written(index)

    async def remove(self, index: Index, documents: Sequence[str]) -> None:
        async with self._reading(index) as table:
            if documents:
                await table.delete(any_of("document", list(documents)))
                await self._written(index)

    async def _written(self, index: Index) -> None:
        self._upserts[index.id] += 1
        if self._upserts[index.id] % TIDY_EVERY == 0:
            await self._indexes.tidy(_table_name(index))

    async def indexed(self, index: Index) -> dict[str, str]:
        async with self._reading(index) as table:
            found = await table.query().select(["document", "digest"]).to_arrow()
        return dict(zip(found["document"].to_pylist(), found["digest"].to_pylist(), strict=True))

    async def finish(self, index: Index) -> None:
        name = _table_name(index)
        async with self._reading(index) as table:
            await self._indexes.tidy(name)
            await lance_index.train(table)
            await self._indexes.sync(name)

    async def search(
        self,
        index: Index,
        vector: NDArray[Any] | None,
        text: str | None,
        limit: int,
        where: Where | None = None,
    ) -> list[Hit]:
        async with self._reading(index) as table:
            return await lance_index.search(table, index, vector, text, limit, where)

    async def vectors(self, index: Index, chunks: Sequence[str]) -> Vectors:
        made = np.zeros((len(chunks), index.dim), dtype=np.float32)
        async with self._reading(index) as table:
            query = table.query().where(any_of("id", list(chunks))).select(["id", "vector"])
            found = await query.to_arrow()
        rows = dict(zip(found["id"].to_pylist(), columns.vectors_of(found, index.dim), strict=True))
        for position, chunk in enumerate(chunks):
            if chunk in rows:
                made[position] = rows[chunk]
        return made

    async def chunks(
        self, index: Index, document: str | None = None, offset: int = 0, limit: int | None = None
    ) -> list[Chunk]:
        async with self._reading(index) as table:
            query = table.query().select(columns.CHUNK)
            if document is not None:
                rows = await query.where(f"document = {literal(document)}").to_list()
                rows = sorted(rows, key=lambda row: row["index"])[offset : None if limit is None else offset + limit]
            else:
                query = query.offset(offset)
                rows = await (query if limit is None else query.limit(limit)).to_list()
        return [columns.chunk_of(row) for row in rows]

    async def count(self, index: Index) -> int:
        async with self._reading(index) as table:
            return await table.count_rows()

    async def drop_index(self, index: Index) -> None:
        while True:
            try:
                row, place = await self._registry.row(index.kb)
            except KnowledgeBaseNotFound:
                break
            without = row.without(index)
            if without is row or await self._registry.replace(row, without, place):
                break
        await self._gone(_table_name(index))

    # --- readers

    @asynccontextmanager
    async def _reading(self, index: Index) -> AsyncIterator[AsyncTable]:
        """The table of an index, which stays until this ends. Raises IndexGone."""
        name = _table_name(index)
        if name in self._dropped:
            raise _index_gone(index)
        self._readers[name] += 1
        try:
            async with self._indexes.using(name) as table:
                yield table
        except Missing as error:
            raise _index_gone(index) from error
        finally:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
                async with self._left:
                    self._left.notify_all()

    async def _gone(self, name: str) -> None:
        """Drops the table of an index once this process's readers have left; nobody new comes in."""
        self._dropped.add(name)
        async with self._left:
            await self._left.wait_for(lambda: not self._readers[name])
        del self._readers[name]
        await self._indexes.drop(name)


def _table_name(index: Index) -> str:
    return f"index-{index.id}"


def _prefix(place: str) -> str:
    return f"index-{place}-"


def _index_gone(index: Index) -> IndexGone:
    return IndexGone(f"the index {index.id} was dropped; ask again", index=index.id)

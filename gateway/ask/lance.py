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
import pyarrow as pa
from numpy.typing import NDArray

from gateway.ask import archive, columns, lance_index
from gateway.ask.archive import Archive
from gateway.ask.claims import Claims
from gateway.ask.copies import PAUSE, Copies
from gateway.ask.forkless import AsyncTable
from gateway.ask.looks import Looks
from gateway.ask.memory import REST, Memory
from gateway.ask.passage import Chunk, Claim, Document, Head, Hit, Index, Row, Where
from gateway.ask.registry import Registry
from gateway.ask.resident import Query
from gateway.ask.store import Choose, Vectors, as_found
from gateway.ask.tables import Missing, Tables, any_of, literal
from gateway.errors import IndexGone, KnowledgeBaseExists, KnowledgeBaseNotFound, KnowledgeStoreFailed

TIDY_EVERY: Final = 64  # upserts of this process to one index
PREFIX: Final = "index-"  # of the names of tables
PATIENCE: Final = 3600.0  # seconds in which whoever makes an index has made it ready to be used
FRESHNESS: Final = 2.0  # seconds; of a bucket, where each look is a request


class LanceStore:
    """`uri` is a directory, or `s3://bucket/path` with `options` as LanceDB has them (without, the environment's);
    `freshness` is for how many seconds another process's writes may go unseen in a bucket, whose indexes are searched
    in copies below `cache_dir`, if that is given. `memory` is how many bytes of indexes are held in this process."""

    def __init__(
        self,
        uri: str,
        options: dict[str, str] | None = None,
        cache_dir: str | None = None,
        *,
        freshness: float = FRESHNESS,
        pause: float = PAUSE,
        memory: int = 0,
        rest: float = REST,
    ) -> None:
        self._tables = Tables(uri, options)
        self._indexes = self._tables if self._tables.local else Tables(uri, options, freshness)
        self._copies = None if cache_dir is None or self._tables.local else Copies(cache_dir, pause)
        self._memory = Memory(memory, rest)
        self._looks: Looks[int] = Looks()
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
        if self._copies is not None:
            await self._copies.open({index.id for index in await self._registry.entries()})

    async def close(self) -> None:
        await self._memory.close()
        if self._copies is not None:
            await self._copies.close()
        await self._tables.close()
        if self._indexes is not self._tables:
            await self._indexes.close()

    @property
    def memory_bytes(self) -> int:
        return self._memory.bytes

    async def settled(self) -> None:
        """Returns when nothing is being made to search faster: what is held, and copies of a bucket's."""
        await self._memory.settled()
        if self._copies is not None:
            await self._copies.settled()

    async def _sweep(self) -> None:
        """Drops what a drop that did not live to its end has left. Read in the order in which things go, which is the
        opposite of that in which they come: what another process makes meanwhile is nothing that is left."""
        names = [name for name in await self._tables.names("") if name.startswith((archive.PREFIX, PREFIX))]
        coming = {name for name in names if await self._may_come(name)}
        indexes = await self._registry.entries()
        never = {index.id for index in await self._registry.unready(time.time() - PATIENCE)}
        places = {place for _, place in await self._registry.rows()}
        known = {archive.table_name(place) for place in places}
        known |= coming
        for index in indexes:
            if index.id.partition("-")[0] in places and index.id not in never:
                known.add(_table_name(index))
            else:
                await self._registry.strike(index)
        for name in names:
            if name not in known:
                await self._tables.drop(name)

    async def _may_come(self, name: str) -> bool:
        """Whether this is a table of documents whose row may be about to come: new, and never written to."""
        if not self._registry.is_new(name.removeprefix(archive.PREFIX), PATIENCE):
            return False
        try:
            async with self._tables.using(name) as table:
                return await table.version() == 1
        except (Missing, KnowledgeStoreFailed):
            return False  # half of it is gone already: somebody drops it, or died there

    # --- knowledge bases

    async def rows(self, owner: str | None = None) -> list[Row]:
        return [row for row, _ in await self._registry.rows(owner)]

    async def create(self, owner: str, name: str, embedding_model: str = "") -> Row:
        """Its table of documents comes first, so that nobody who sees the row has to make one: of two that make one
        table, the slower would put an empty one over what was written into the other's."""
        place = self._registry.new_place()
        await self._archive.make(place)
        try:
            return await self._registry.create(owner, name, embedding_model, place)
        except KnowledgeBaseExists:
            await self._tables.drop(archive.table_name(place))
            raise

    async def row(self, kb: str) -> Row:
        return (await self._registry.row(kb))[0]

    async def switch(self, kb: str, expected_version: int, live: Index, embedding_model: str | None = None) -> bool:
        row, place = await self._registry.row(kb)
        if row.version != expected_version:
            return False
        async with self._reading(live):
            await self._indexes.sync(_table_name(live))
            return await self._registry.replace(row, row.switched(live, embedding_model), place)

    async def claimed(self, kb: str) -> Claim:
        return await self._claims.claimed(await self._place(kb))

    async def claim(self, kb: str, before: Claim, holder: str) -> bool:
        return await self._claims.claim(await self._place(kb), before, holder)

    async def drop(self, kb: str) -> None:
        _, place = await self._registry.row(kb)
        await self._registry.remove(kb, place)
        for index in await self._registry.indexes(place):
            await self._gone(index)
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
        place = await self._place(kb)
        index = Index(
            id=f"{place}-{uuid.uuid4().hex[:16]}",
            kb=kb,
            model=model,
            generation=generation,
            dim=dim,
            chunking=chunking,
            made=time.time(),
        )
        await self._registry.enter(index, place, ready=False)
        name = _table_name(index)
        await self._indexes.made(name, columns.of_index(index))
        async with self._indexes.using(name) as table:
            await lance_index.prepare(table)
        await self._indexes.sync(name)
        await self._registry.enter(index, place, ready=True)
        return index

    async def indexes(self, kb: str) -> list[Index]:
        return await self._registry.indexes(await self._place(kb))

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
        *,
        choose: Choose = as_found,
    ) -> list[Hit]:
        async with self._reading(index) as table:
            version = await self._version(index, table)
            held = self._memory.of(index, version)
            if held is not None:
                query = Query(vector=vector, text=text, limit=limit, where=where, choose=choose)
                return await held.search(query)
            self._memory.follow(index, version, lambda: self._snapshot(index, version))
            near = await self._nearby(index, table, version)
            return await lance_index.search(near, index, vector, text, limit, where, choose)

    async def _version(self, index: Index, table: AsyncTable) -> int:
        """As it is now: of the bucket, as it was so many seconds ago at most."""
        return await self._looks(index.id, table.version)

    async def _snapshot(self, index: Index, version: int) -> pa.Table | None:
        """All of one version, unless its vectors alone are more than is held."""
        table = await self._indexes.connection.open_table(_table_name(index))
        await table.checkout(version)
        if await table.count_rows() * index.dim * 4 > self._memory.budget:
            return None
        return await table.query().select(columns.HELD).to_arrow()

    async def _nearby(self, index: Index, table: AsyncTable, version: int) -> AsyncTable:
        """The local copy of what a search would see in the bucket, or the bucket."""
        if self._copies is None:
            return table
        copy = await self._copies.of(index, version)
        if copy is None:
            self._copies.follow(index, version, self._indexes.connection, _table_name(index))
        return copy or table

    async def vectors(self, index: Index, chunks: Sequence[str]) -> Vectors:
        made = np.zeros((len(chunks), index.dim), dtype=np.float32)
        async with self._reading(index) as table:
            held = self._memory.of(index, await self._version(index, table))
            if held is not None:
                return await held.vectors(list(chunks))
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
        await self._gone(index)

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
        except KnowledgeStoreFailed as error:
            if await self._registry.has(index):
                raise
            raise _index_gone(index) from error  # some of its files are
        finally:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
                async with self._left:
                    self._left.notify_all()

    async def _gone(self, index: Index) -> None:
        """Drops the table of an index once this process's readers have left; nobody new comes in."""
        name = _table_name(index)
        self._dropped.add(name)
        await self._registry.strike(index)
        async with self._left:
            await self._left.wait_for(lambda: not self._readers[name])
        del self._readers[name]
        self._memory.forget(index)
        if self._copies is not None:
            await self._copies.forget(index)
        await self._indexes.drop(name)


def _table_name(index: Index) -> str:
    return f"{PREFIX}{index.id}"


def _index_gone(index: Index) -> IndexGone:
    return IndexGone(f"the index {index.id} was dropped; ask again", index=index.id)

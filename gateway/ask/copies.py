"""Copies of indexes on the local disk, for a store in a bucket: a search in a bucket costs many requests, one in a copy
none.

A copy is of one version, and answers only while that version is the newest; searches go to the bucket meanwhile. It is
made in the background, beside the copy before, and may be lost at any moment: nothing but time depends on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

from gateway.ask import columns, lance_index
from gateway.ask.forkless import AsyncConnection, AsyncTable
from gateway.ask.passage import Index
from gateway.ask.tables import Missing, Tables
from gateway.errors import KnowledgeStoreFailed

WHOLE: Final = "whole"  # the tag of a copy that was finished
PAUSE: Final = 30.0  # seconds between two copies of an index, and for which a replaced one is still read at the most
BATCH: Final = 4096  # rows


class Copies:
    """`pause` is in seconds. Used by one event loop."""

    def __init__(self, folder: str, pause: float = PAUSE) -> None:
        self._tables = Tables(folder)
        self._pause = pause
        self._newest: dict[str, str] = {}  # index id -> the name of its newest copy
        self._began: dict[str, float] = {}
        self._making: dict[str, asyncio.Task[None]] = {}

    async def open(self, known: Collection[str]) -> None:
        """`known` are the ids of the indexes that there are: copies of others go, and so do halves."""
        await self._tables.open()
        for name in await self._tables.names(""):
            index = name.rpartition("-")[0].removeprefix("copy-")
            if index in known and await self._is_whole(name):
                self._newest[index] = name
            else:
                await self._tables.drop(name)

    async def _is_whole(self, name: str) -> bool:
        try:
            table = await self._tables.table(name)
            return WHOLE in await table.tags.list()
        except (Missing, OSError, RuntimeError, ValueError):
            return False

    async def close(self) -> None:
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        await self._tables.close()

    async def of(self, index: Index, version: int) -> AsyncTable | None:
        """The copy of exactly this version, if there is one."""
        name = _name(index, version)
        return await self._tables.table(name) if self._newest.get(index.id) == name else None

    def follow(self, index: Index, version: int, connection: AsyncConnection, table: str) -> None:
        """Begins to copy `version` of `table`, unless a copy of the index is being made or was made just now."""
        now = time.monotonic()
        if index.id in self._making or now < self._began.get(index.id, -self._pause) + self._pause:
            return
        self._began[index.id] = now
        task = asyncio.create_task(self._make(index, version, connection, table))
        self._making[index.id] = task
        task.add_done_callback(lambda _: self._making.pop(index.id, None))

    async def settled(self) -> None:
        """Returns when no copy is being made."""
        while self._making:
            await asyncio.wait(list(self._making.values()))
            await asyncio.sleep(0)  # for what happens when they end

    async def forget(self, index: Index) -> None:
        if task := self._making.get(index.id):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._newest.pop(index.id, None)
        for name in await self._tables.names(f"copy-{index.id}-"):
            await self._tables.drop(name)

    async def _make(self, index: Index, version: int, connection: AsyncConnection, table: str) -> None:
        name, before = _name(index, version), self._newest.get(index.id)
        try:
            source = await connection.open_table(table)
            await source.checkout(version)
            await self._fill(await self._tables.made(name, columns.of_index(index)), source)
        except (KnowledgeStoreFailed, OSError, RuntimeError, ValueError):
            await self._tables.drop(name)  # the bucket failed, or the disk is full: searches go to the bucket
            return
        self._newest[index.id] = name
        for old in await self._tables.names(f"copy-{index.id}-"):
            if old not in {name, before}:  # the one before may be in use for a moment; this pause is far longer
                await self._tables.drop(old)

    @staticmethod
    async def _fill(copy: AsyncTable, source: AsyncTable) -> None:
        await lance_index.prepare(copy)
        async for batch in await source.query().to_batches(max_batch_length=BATCH):
            await copy.add(batch)
        await copy.optimize()
        await lance_index.train(copy)
        await copy.tags.create(WHOLE, await copy.version())


def _name(index: Index, version: int) -> str:
    return f"copy-{index.id}-{version}"

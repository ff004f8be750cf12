"""Indexes in this process's memory, within a budget of bytes: what is searched often is searched without LanceDB.

One is of one version of its table, and answers only while that version is the newest. It is made in the background,
once somebody has searched, and LanceDB answers until then. Making it anew takes no more than a tenth of the time,
however often the index changes. Nothing but time depends on it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import pyarrow as pa
from threadpoolctl import threadpool_limits

from gateway.ask.passage import Hit, Index
from gateway.ask.resident import Query, Resident
from gateway.ask.store import Vectors
from gateway.errors import GatewayError
from gateway.lane import Lane

REST: Final = 9.0  # times as long as an index took to make, until it is made again
LEAST_REST: Final = 0.05  # seconds
TOO_LARGE: Final = 60.0  # seconds until one that had no room is looked at again
TOGETHER: Final = 64  # queries of one turn on the lane

Read = Callable[[], Awaitable[pa.Table | None]]


class Held:
    """One index. Queries that come while others are computed are computed together next."""

    def __init__(self, resident: Resident, version: int, lane: Lane) -> None:
        self.version = version
        self.bytes = resident.bytes
        self._resident = resident
        self._lane = lane
        self._waiting: list[tuple[Query, asyncio.Future[list[Hit]]]] = []
        self._working: asyncio.Task[None] | None = None

    async def search(self, query: Query) -> list[Hit]:
        future: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await future

    async def vectors(self, chunks: list[str]) -> Vectors:
        return await self._lane.run(self._resident.vectors, chunks)

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                await self._turn([(query, future) for query, future in batch if not future.done()])  # who left is not
        finally:
            self._working = None
            for _, future in self._waiting:
                future.cancel()

    async def _turn(self, batch: list[tuple[Query, asyncio.Future[list[Hit]]]]) -> None:
        try:
            found = await self._lane.run(self._resident.search, [query for query, _ in batch])
        except asyncio.CancelledError:  # the lane was closed
            self._waiting += batch
            raise
        except Exception as error:
            if len(batch) == 1:
                if not batch[0][1].done():
                    batch[0][1].set_exception(error)
                return
            for each in batch:  # whose fault it is shows alone
                await self._turn([each])
            return
        for (_, future), hits in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(hits)


class Memory:
    """`budget` is in bytes, 0 for none; `rest` is for tests. Used by one event loop."""

    def __init__(self, budget: int, rest: float = REST) -> None:
        # OpenBLAS's threads spin for milliseconds behind each product, on the very cores that the hosts compute with
        threadpool_limits(limits=1, user_api="blas")
        self.budget = budget
        self._rest = rest
        self._held: OrderedDict[str, Held] = OrderedDict()  # by the index's id, the least recently used first
        self._making: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._searching = Lane("recall")
        self._building = Lane("memorize")

    @property
    def bytes(self) -> int:
        return sum(held.bytes for held in self._held.values())

    def of(self, index: Index, version: int) -> Held | None:
        """The index as exactly this version has it, if it is held."""
        held = self._held.get(index.id)
        if held is not None and held.version == version:
            self._held.move_to_end(index.id)
            return held
        if held is not None and held.version < version:
            del self._held[index.id]
        return None

    def follow(self, index: Index, version: int, read: Read) -> None:
        """Begins to make one of what is `read`, unless it is being made or was made just now. None is read where the
        index has no room."""
        held = self._held.get(index.id)
        if not self.budget or index.id in self._making or (held is not None and held.version >= version):
            return
        if time.monotonic() < self._not_before.get(index.id, 0.0):
            return
        task = asyncio.create_task(self._make(index, version, read))
        self._making[index.id] = task
        task.add_done_callback(lambda _: self._making.pop(index.id, None))

    async def settled(self) -> None:
        """Returns when none is being made."""
        while self._making:
            await asyncio.wait(list(self._making.values()))
            await asyncio.sleep(0)  # for what happens when they end

    def forget(self, index: Index) -> None:
        if task := self._making.get(index.id):
            task.cancel()
        self._held.pop(index.id, None)
        self._not_before.pop(index.id, None)

    async def close(self) -> None:
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        self._held.clear()
        self._building.close()
        self._searching.close()

    async def _make(self, index: Index, version: int, read: Read) -> None:
        began, rest = time.monotonic(), TOO_LARGE
        try:
            table = await read()
            if table is None:
                return
            resident = await self._building.run(Resident, table, index.dim)
            if self._room(resident.bytes):
                self._held[index.id] = Held(resident, version, self._searching)
                rest = max(LEAST_REST, time.monotonic() - began) * self._rest
        except (GatewayError, OSError, RuntimeError, ValueError):
            pass  # it was dropped, or the store fails: whoever searches is told by the store
        finally:
            self._not_before[index.id] = time.monotonic() + rest

    def _room(self, wanted: int) -> bool:
        """Whether there is room, once what was used least has left."""
        if wanted > self.budget:
            return False
        while self.bytes + wanted > self.budget:
            self._held.popitem(last=False)
        return True

"""LanceDB's tables by name, in a directory or in a bucket: opening, dropping, making durable.

A name that was dropped is never used again, so a handle means one table for good. What fails is told as ours: Missing
for a table that is not there, KnowledgeStoreFailed for everything else.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Final

import pyarrow as pa

from gateway.ask.durable import Synced, probe
from gateway.ask.forkless import AsyncConnection, AsyncTable, lancedb
from gateway.errors import GatewayError, KnowledgeDirUnsuitable, KnowledgeStoreFailed
from gateway.lane import Lane

KEPT: Final = timedelta(minutes=10)  # how long other processes may go on reading what was replaced
PAGE: Final = 1000


class Missing(Exception):
    """There is no table of this name."""


class Tables:
    """`freshness` is for how many seconds what another process wrote may go unseen: 0 costs a look at each query."""

    def __init__(self, uri: str, options: dict[str, str] | None = None, freshness: float = 0.0) -> None:
        self._uri = uri
        self._options = options
        self._freshness = timedelta(seconds=freshness)
        self._open: dict[str, AsyncTable] = {}
        self._lane = Lane("knowledge")
        self._synced = Synced()
        self._connection: AsyncConnection | None = None

    @property
    def local(self) -> bool:
        return "://" not in self._uri

    @property
    def connection(self) -> AsyncConnection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    async def open(self) -> None:
        if self.local:
            await self._lane.run(probe, self._uri)
        try:
            self._connection = await lancedb.connect_async(
                self._uri, storage_options=self._options, read_consistency_interval=self._freshness
            )
            await self.connection.list_tables(limit=1)
        except (OSError, RuntimeError, ValueError) as error:
            raise KnowledgeDirUnsuitable(f"{self._uri}: {_one_line(error)}", path=self._uri) from error

    async def close(self) -> None:
        self._open.clear()
        if self._connection is not None:
            self._connection.close()  # type: ignore[no-untyped-call]  # LanceDB's, which has no annotation
        self._lane.close()

    async def names(self, prefix: str) -> list[str]:
        """Of all tables that begin so, in order."""
        found: list[str] = []
        token: str | None = None
        while True:
            with _as_ours():
                page = await self.connection.list_tables(page_token=token, limit=PAGE)
            found += [name for name in page.tables if name.startswith(prefix)]
            token = page.page_token
            if not token:
                return sorted(found)

    async def table(self, name: str) -> AsyncTable:
        """Raises Missing."""
        if name not in self._open:
            try:
                self._open[name] = await self.connection.open_table(name)
            except ValueError as error:
                raise Missing(name) from error
        return self._open[name]

    async def made(self, name: str, schema: pa.Schema) -> AsyncTable:
        """The table, which is made if it is not there. Of several that make it in the same moment one does, or the
        slower puts an empty version over the first: then it puts back what it covered."""
        with suppress(Missing):
            return await self._there(name)
        try:
            table = await self.connection.create_table(name, schema=schema)
            if (version := await table.version()) > 1:
                await self._put_back(table, name, version - 1)
        except (OSError, RuntimeError, ValueError) as error:
            with suppress(Missing):
                return await self._there(name)
            raise _failed(error) from error
        self._open[name] = table
        return table

    async def _there(self, name: str) -> AsyncTable:
        async with self.using(name) as table:
            return table

    async def _put_back(self, table: AsyncTable, name: str, version: int) -> None:
        covered = await self.connection.open_table(name)
        await covered.checkout(version)
        rows = await covered.to_arrow()
        if rows.num_rows:
            key = rows.schema.names[0]  # every schema here begins with what tells its rows apart
            await table.merge_insert(key).when_not_matched_insert_all().execute(rows)

    async def drop(self, name: str) -> None:
        """What is not there needs no dropping."""
        self._open.pop(name, None)
        with _as_ours():
            await self.connection.drop_table(name, ignore_missing=True)
        if self.local:
            await self._lane.run(self._synced.forget, self._path(name))

    async def sync(self, name: str) -> None:
        """Returns when all that was written to the table outlives a power cut."""
        if not self.local:
            return
        try:
            await self._lane.run(self._synced.sync, self._path(name))
        except OSError as error:
            raise KnowledgeStoreFailed(f"the disk of the knowledge store failed: {_one_line(error)}") from error

    async def tidy(self, name: str) -> None:
        """Many small files become few, and what was replaced a while ago goes. Another process that does the same is no
        fault: it has done it."""
        async with self.using(name) as table:
            try:
                await table.optimize(cleanup_older_than=KEPT)
            except (OSError, RuntimeError) as error:
                if "conflict" not in str(error).lower():
                    raise
        await self.sync(name)

    def using(self, name: str) -> Using:
        """The table; what LanceDB raises meanwhile comes out as Missing or KnowledgeStoreFailed."""
        return Using(self, name)

    @asynccontextmanager
    async def needed(self, name: str) -> AsyncIterator[AsyncTable]:
        """As `using`, of a table that nobody drops: without it the store has failed."""
        try:
            async with self.using(name) as table:
                yield table
        except Missing as error:
            raise KnowledgeStoreFailed(f"the knowledge store has lost its table {name}") from error

    async def tell(self, name: str, error: BaseException) -> None:
        """Raises what is ours for what LanceDB raised."""
        if isinstance(error, Missing | GatewayError) or not isinstance(error, OSError | RuntimeError | ValueError):
            return
        if not await self._is_there(name):
            self._open.pop(name, None)
            raise Missing(name) from error
        raise _failed(error) from error

    async def _is_there(self, name: str) -> bool:
        try:
            await self.connection.open_table(name)
        except ValueError:
            return False
        except (OSError, RuntimeError):
            return True  # it cannot be known: the failure itself is what is told
        return True

    def _path(self, name: str) -> str:
        return os.path.join(self._uri, f"{name}.lance")


class Using:
    """A table while it is used. A class, since every question of every knowledge base comes by here several times."""

    __slots__ = ("_name", "_tables")

    def __init__(self, tables: Tables, name: str) -> None:
        self._tables = tables
        self._name = name

    async def __aenter__(self) -> AsyncTable:
        try:
            return await self._tables.table(self._name)
        except Exception as error:
            await self._tables.tell(self._name, error)
            raise

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            await self._tables.tell(self._name, error)


def literal(text: str) -> str:
    """As SQL writes a text. Half characters, which no column can hold, become such as match nothing."""
    whole = text.encode("utf-8", "replace").decode()
    return "'" + whole.replace("'", "''") + "'"


def any_of(column: str, texts: list[str]) -> str:
    return f"{column} IN ({', '.join(map(literal, texts))})" if texts else "false"


@contextmanager
def _as_ours() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise _failed(error) from error


def _failed(error: Exception) -> KnowledgeStoreFailed:
    return KnowledgeStoreFailed(f"the knowledge store failed: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]

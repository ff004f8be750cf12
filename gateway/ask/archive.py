"""The documents of knowledge bases: one table for each, apart from all vectors, which can be made of them anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from gateway.ask import columns
from gateway.ask.passage import Document, Head
from gateway.ask.tables import Missing, Tables, literal
from gateway.errors import DocumentNotFound

PREFIX: Final = "documents-"  # of the names of tables
TIDY_EVERY: Final = 64  # writes of this process to one table


class Archive:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._writes: Counter[str] = Counter()

    async def make(self, place: str) -> None:
        await self._tables.made(table_name(place), columns.DOCUMENTS)
        await self._tables.sync(table_name(place))

    async def put(self, place: str, documents: Sequence[Document]) -> None:
        if not documents:
            return
        name = table_name(place)
        rows = columns.of_documents(documents)
        await self._tables.made(name, columns.DOCUMENTS)
        async with self._tables.using(name) as table:
            await table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            await self._written(name)

    async def get(self, place: str, document: str) -> Document:
        try:
            async with self._tables.using(table_name(place)) as table:
                found = await table.query().where(f"id = {literal(document)}").to_list()
        except Missing:
            found = []
        if not found:
            raise _not_found(document)
        return columns.document_of(found[0])

    async def heads(self, place: str) -> list[Head]:
        """By name."""
        try:
            async with self._tables.using(table_name(place)) as table:
                rows = await table.query().select(columns.HEAD).to_list()
        except Missing:
            return []
        return sorted(map(columns.head_of, rows), key=lambda head: head.name)

    async def count(self, place: str) -> int:
        try:
            async with self._tables.using(table_name(place)) as table:
                return await table.count_rows()
        except Missing:
            return 0

    async def delete(self, place: str, document: str) -> None:
        name = table_name(place)
        try:
            async with self._tables.using(name) as table:
                same = f"id = {literal(document)}"
                if not await table.count_rows(same):
                    raise _not_found(document)
                await table.delete(same)
                await self._written(name)
        except Missing as error:
            raise _not_found(document) from error

    async def _written(self, name: str) -> None:
        await self._tables.sync(name)
        self._writes[name] += 1
        if self._writes[name] % TIDY_EVERY == 0:
            await self._tables.tidy(name)


def table_name(place: str) -> str:
    return f"{PREFIX}{place}"


def _not_found(document: str) -> DocumentNotFound:
    return DocumentNotFound(f"there is no document {document}", document=document)

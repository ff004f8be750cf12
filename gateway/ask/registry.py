"""What there is: a row for each knowledge base, changed by compare and swap, and a row for each index.

A `place` is drawn for each knowledge base when it is created, and its tables are named by it: one that is created anew
under an old name shares nothing with what was dropped. Deleting a table takes many steps, and a process may end between
two of them: so a table is entered here before it is made, leaves before it goes, and is nothing without an entry.
"""

from __future__ import annotations

import time
import uuid
from typing import Final

import msgspec

from gateway.ask import columns
from gateway.ask.forkless import AsyncTable
from gateway.ask.looks import Looks
from gateway.ask.passage import Index, Row, key
from gateway.ask.tables import Tables, literal
from gateway.errors import KnowledgeBaseExists, KnowledgeBaseNotFound

NAME: Final = "registry"
INDEXES: Final = "indexes"
TIDY_EVERY: Final = 64  # changes


class Registry:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._changes = 0
        self._looks: Looks[int] = Looks()
        self._version = 0  # of the table, of which these are rows
        self._read: dict[str, tuple[Row, str]] = {}

    async def open(self) -> None:
        for name, schema in ((NAME, columns.REGISTRY), (INDEXES, columns.INDEXES)):
            await self._tables.made(name, schema)
            await self._tables.sync(name)

    async def rows(self, owner: str | None = None) -> list[tuple[Row, str]]:
        """Each row and its place, by key."""
        async with self._tables.needed(NAME) as table:
            query = table.query().select(["row", "place"])
            if owner is not None:
                query = query.where(f"owner = {literal(owner)}")
            found = await query.to_list()
        rows = [(msgspec.json.decode(entry["row"], type=Row), str(entry["place"])) for entry in found]
        return sorted(rows, key=lambda entry: entry[0].kb)

    async def row(self, kb: str) -> tuple[Row, str]:
        """The row and its place. Raises KnowledgeBaseNotFound. Whether the table has changed is looked at each time,
        and what has not is not read again."""
        async with self._tables.needed(NAME) as table:
            version = await self._looks(NAME, table.version)
            if version != self._version:
                self._version, self._read = version, {}
            found = self._read.get(kb) or await self._row(table, kb)
        if version == self._version:
            self._read[kb] = found
        return found

    @staticmethod
    async def _row(table: AsyncTable, kb: str) -> tuple[Row, str]:
        found = await table.query().where(f"kb = {literal(kb)}").select(["row", "place"]).to_list()
        if not found:
            name = kb.rpartition("/")[2]
            raise KnowledgeBaseNotFound(f"there is no knowledge base {name}", knowledge_base=name)
        return msgspec.json.decode(found[0]["row"], type=Row), str(found[0]["place"])

    @staticmethod
    def new_place() -> str:
        """16 hexadecimal digits: the second in which it was made, and chance."""
        return f"{int(time.time()):08x}{uuid.uuid4().hex[:8]}"

    @staticmethod
    def is_new(place: str, patience: float) -> bool:
        """Whether it was made in the last `patience` seconds: its row may be about to come."""
        try:
            return 0 <= time.time() - int(place[:8], 16) < patience
        except ValueError:
            return False

    async def create(self, owner: str, name: str, embedding_model: str, place: str) -> Row:
        row = Row(kb=key(owner, name), owner=owner, embedding_model=embedding_model)
        async with self._tables.needed(NAME) as table:
            merge = table.merge_insert("kb").when_not_matched_insert_all()
            done = await merge.execute(columns.table([_entry(row, place)], columns.REGISTRY))
        if not done.num_inserted_rows:
            raise KnowledgeBaseExists(f"there is a knowledge base {name} already", knowledge_base=name)
        await self._changed(NAME)
        return row

    async def replace(self, old: Row, new: Row, place: str) -> bool:
        """Whether `new` is now in the place of `old`; not if somebody else was faster."""
        async with self._tables.needed(NAME) as table:
            unchanged = f"target.version = {old.version} AND target.place = {literal(place)}"
            merge = table.merge_insert("kb").when_matched_update_all(where=unchanged)
            done = await merge.execute(columns.table([_entry(new, place)], columns.REGISTRY))
        await self._changed(NAME)
        return bool(done.num_updated_rows)

    async def remove(self, kb: str, place: str) -> None:
        async with self._tables.needed(NAME) as table:
            await table.delete(f"kb = {literal(kb)} AND place = {literal(place)}")
        await self._changed(NAME)

    async def indexes(self, place: str) -> list[Index]:
        """Those of a place that are ready, oldest first."""
        return await self._entered(f"place = {literal(place)} AND ready")

    async def entries(self) -> list[Index]:
        """All that were entered, ready or not."""
        return await self._entered("true")

    async def unready(self, made_before: float) -> list[Index]:
        """Those whose maker has not come back to them."""
        return [index for index in await self._entered("NOT ready") if index.made < made_before]

    async def _entered(self, which: str) -> list[Index]:
        async with self._tables.needed(INDEXES) as table:
            found = await table.query().where(which).select(["about"]).to_list()
        indexes = [msgspec.json.decode(entry["about"], type=Index) for entry in found]
        return sorted(indexes, key=lambda index: (index.made, index.id))

    async def enter(self, index: Index, place: str, *, ready: bool) -> None:
        """Before its table is made, and again when it is ready to be used."""
        entry = {"id": index.id, "place": place, "about": msgspec.json.encode(index), "ready": ready}
        async with self._tables.needed(INDEXES) as table:
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            await merge.execute(columns.table([entry], columns.INDEXES))
        await self._changed(INDEXES)

    async def strike(self, index: Index) -> None:
        """Removes the entry, if there is one."""
        async with self._tables.needed(INDEXES) as table:
            await table.delete(f"id = {literal(index.id)}")
        await self._changed(INDEXES)

    async def has(self, index: Index) -> bool:
        async with self._tables.needed(INDEXES) as table:
            return bool(await table.count_rows(f"id = {literal(index.id)}"))

    async def _changed(self, name: str) -> None:
        await self._tables.sync(name)
        self._changes += 1
        if self._changes % TIDY_EVERY == 0:
            await self._tables.tidy(NAME)
            await self._tables.tidy(INDEXES)


def _entry(row: Row, place: str) -> dict[str, object]:
    encoded = msgspec.json.encode(row)
    return {"kb": row.kb, "owner": row.owner, "version": row.version, "place": place, "row": encoded}

"""The one table that says what there is: a row for each knowledge base, changed by compare and swap.

A `place` is drawn for each knowledge base when it is created, and its tables are named by it: one that is created anew
under an old name shares nothing with what was dropped.
"""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

from gateway.ask import columns
from gateway.ask.passage import Row, key
from gateway.ask.tables import Tables, literal
from gateway.errors import KnowledgeBaseExists, KnowledgeBaseNotFound

NAME: Final = "registry"
TIDY_EVERY: Final = 64  # changes


class Registry:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._changes = 0

    async def open(self) -> None:
        await self._tables.made(NAME, columns.REGISTRY)
        await self._tables.sync(NAME)

    async def rows(self, owner: str | None = None) -> list[tuple[Row, str]]:
        """Each row and its place, by key."""
        async with self._tables.using(NAME) as table:
            query = table.query().select(["row", "place"])
            if owner is not None:
                query = query.where(f"owner = {literal(owner)}")
            found = await query.to_list()
        rows = [(msgspec.json.decode(entry["row"], type=Row), str(entry["place"])) for entry in found]
        return sorted(rows, key=lambda entry: entry[0].kb)

    async def row(self, kb: str) -> tuple[Row, str]:
        """The row and its place. Raises KnowledgeBaseNotFound."""
        async with self._tables.using(NAME) as table:
            found = await table.query().where(f"kb = {literal(kb)}").select(["row", "place"]).to_list()
        if not found:
            name = kb.rpartition("/")[2]
            raise KnowledgeBaseNotFound(f"there is no knowledge base {name}", knowledge_base=name)
        return msgspec.json.decode(found[0]["row"], type=Row), str(found[0]["place"])

    async def create(self, owner: str, name: str, embedding_model: str) -> Row:
        row = Row(kb=key(owner, name), owner=owner, embedding_model=embedding_model)
        place = uuid.uuid4().hex[:16]
        async with self._tables.using(NAME) as table:
            merge = table.merge_insert("kb").when_not_matched_insert_all()
            done = await merge.execute(columns.table([_entry(row, place)], columns.REGISTRY))
        if not done.num_inserted_rows:
            raise KnowledgeBaseExists(f"there is a knowledge base {name} already", knowledge_base=name)
        await self._changed()
        return row

    async def replace(self, old: Row, new: Row, place: str) -> bool:
        """Whether `new` is now in the place of `old`; not if somebody else was faster."""
        async with self._tables.using(NAME) as table:
            unchanged = f"target.version = {old.version} AND target.place = {literal(place)}"
            merge = table.merge_insert("kb").when_matched_update_all(where=unchanged)
            done = await merge.execute(columns.table([_entry(new, place)], columns.REGISTRY))
        await self._changed()
        return bool(done.num_updated_rows)

    async def remove(self, kb: str, place: str) -> None:
        async with self._tables.using(NAME) as table:
            await table.delete(f"kb = {literal(kb)} AND place = {literal(place)}")
        await self._changed()

    async def _changed(self) -> None:
        await self._tables.sync(NAME)
        self._changes += 1
        if self._changes % TIDY_EVERY == 0:
            await self._tables.tidy(NAME)


def _entry(row: Row, place: str) -> dict[str, object]:
    encoded = msgspec.json.encode(row)
    return {"kb": row.kb, "owner": row.owner, "version": row.version, "place": place, "row": encoded}

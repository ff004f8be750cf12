"""Who may build an index, by compare and swap: one row for each knowledge base."""

from __future__ import annotations

from typing import Final

from gateway.ask import columns
from gateway.ask.passage import Claim
from gateway.ask.tables import Tables, literal

NAME: Final = "builders"
TIDY_EVERY: Final = 64  # changes


class Claims:
    """Of several that claim in the same moment, LanceDB lets one commit and has the others look again."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._changes = 0

    async def open(self) -> None:
        await self._tables.made(NAME, columns.CLAIMS)
        await self._tables.sync(NAME)

    async def claimed(self, place: str) -> Claim:
        async with self._tables.needed(NAME) as table:
            found = await table.query().where(f"place = {literal(place)}").select(["holder", "beat"]).to_list()
        return Claim(found[0]["holder"], found[0]["beat"]) if found else Claim()

    async def claim(self, place: str, before: Claim, holder: str) -> bool:
        unmoved = f"target.holder = {literal(before.holder)} AND target.beat = {before.beat}"
        claimed = columns.table([{"place": place, "holder": holder, "beat": before.beat + 1}], columns.CLAIMS)
        async with self._tables.needed(NAME) as table:
            merge = table.merge_insert("place").when_matched_update_all(where=unmoved)
            done = await (merge if before.beat else merge.when_not_matched_insert_all()).execute(claimed)
        await self._tables.sync(NAME)
        self._changes += 1
        if self._changes % TIDY_EVERY == 0:
            await self._tables.tidy(NAME)
        return bool(done.num_updated_rows or done.num_inserted_rows)

"""Who may build an index: one holder at a time for each knowledge base, by compare and swap, until its time is over."""

from __future__ import annotations

import time
from typing import Final

from gateway.ask import columns
from gateway.ask.tables import Tables, literal

NAME: Final = "claims"
TIDY_EVERY: Final = 64  # changes


class Claims:
    """Of several that claim in the same moment, LanceDB lets one commit and has the others look again. The clocks of
    machines that share a bucket may differ by less than the seconds that are claimed."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._changes = 0

    async def open(self) -> None:
        await self._tables.made(NAME, columns.CLAIMS)
        await self._tables.sync(NAME)

    async def claim(self, place: str, holder: str, seconds: float) -> bool:
        now = time.time()
        free = f"target.until <= {now!r} OR target.holder = {literal(holder)}"
        claimed = columns.table([{"place": place, "holder": holder, "until": now + seconds}], columns.CLAIMS)
        async with self._tables.using(NAME) as table:
            merge = table.merge_insert("place").when_matched_update_all(where=free).when_not_matched_insert_all()
            done = await merge.execute(claimed)
        await self._tables.sync(NAME)
        self._changes += 1
        if self._changes % TIDY_EVERY == 0:
            await self._tables.tidy(NAME)
        return bool(done.num_updated_rows or done.num_inserted_rows)

"""One knowledge base going over to one generation: its index built beside the old one, probed, and made live together
with the generation, in one compare-and-swap. Whatever stops it, the old pair goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from gateway import events
from gateway.ask import probe
from gateway.ask.embedding import charged
from gateway.ask.holds import Holds
from gateway.ask.passage import Index, Row
from gateway.ask.rebuild import Cutter, Rebuild
from gateway.ask.store import Store
from gateway.errors import NotFound
from gateway.model import Generation
from gateway.service import Service

LEFT_SECONDS: Final = 600.0  # after which an index that nobody has switched to was left behind


class Target(msgspec.Struct, frozen=True):
    """Where a base is to go: the live generation of its model. `asked`: somebody wants the index made anew, whatever it
    is."""

    model: str
    generation: Generation
    asked: bool = False


class Worse(Exception):
    """The new index finds much less than the old one."""


class Means(msgspec.Struct, frozen=True):
    """What every move needs."""

    store: Store
    service: Service
    holds: Holds
    cutter: Cutter
    tell: events.Events


class Move:
    """`told` hears how many documents are done, and how many there are. `goal` says where the base is to go now: it may
    be another generation than when this began. `lost` says whether somebody else may be building by now."""

    def __init__(
        self,
        means: Means,
        row: Row,
        target: Target,
        *,
        told: Callable[[int, int], None],
        goal: Callable[[], Generation | None],
        lost: Callable[[], bool],
    ) -> None:
        self._means = means
        self._store = means.store
        self._row = row
        self._target = target
        self._told = told
        self._goal = goal
        self._lost = lost
        self._service = charged(means.service, means.tell, row.kb)
        self._rebuild = Rebuild(means.store, self._service, means.cutter)
        self._began = time.monotonic()
        self._tenths = 0
        self._total = 0

    async def run(self) -> None:
        """Raises Worse, and what embedding and the store do."""
        target, store = self._target, self._store
        await self._means.holds.add(target.generation.digest)
        index, kept = await self._index()
        self._means.tell.emit(events.ReindexStarted(**self._facts(), previous=_short(self._row.live), kept=kept))
        if not await self._rebuild.fill(index, target.generation, self._progress, self._wanted):
            if not kept and not self._lost():
                await store.drop_index(index)
            return
        await store.finish(index)
        await self._pass_the_gate(index)
        if self._lost() or not await self._switch(index):
            return
        await self._rebuild.fill(index, target.generation, self._told, _always)  # what came while that happened
        await store.finish(index)
        await self._trim()
        seconds = time.monotonic() - self._began
        self._means.tell.emit(
            events.ReindexFinished(
                **self._facts(), previous=_short(self._row.live), documents=self._total, seconds=seconds
            )
        )

    async def _index(self) -> tuple[Index, bool]:
        """One that the base had before, or that was begun and left, or a new one; and whether it is the first of these.
        What else was left behind is dropped."""
        target, row, store = self._target, self._row, self._store
        label = self._means.cutter.label(target.generation)
        named = {index.id for index in (row.live, *row.previous) if index is not None}
        there = await store.indexes(row.kb)
        usable = [index for index in there if self._fits(index, label)]
        left = [index for index in there if index.id not in named]
        kept = next((index for index in usable if index in row.previous), None)
        begun = next((index for index in reversed(usable) if index in left), None)
        chosen = begun if target.asked else kept or begun
        for index in left:
            if index != chosen and index.made < time.time() - LEFT_SECONDS:
                await store.drop_index(index)
        if chosen is not None:
            return chosen, chosen == kept
        digest, dim = target.generation.digest, target.generation.manifest.dim
        return await store.create_index(row.kb, target.model, digest, dim, label), False

    def _fits(self, index: Index, label: str) -> bool:
        wanted = self._target
        return (index.model, index.generation, index.chunking) == (wanted.model, wanted.generation.digest, label)

    async def _wanted(self) -> bool:
        """What was begun is finished, also when something newer has gone live meanwhile: it could go on like that for
        ever. But not once the old pair is right again, and not by two at once."""
        goal, live = self._goal(), self._row.live
        back = not self._target.asked and goal is not None and live is not None and goal.digest == live.generation
        return not self._lost() and not back

    async def _pass_the_gate(self, index: Index) -> None:
        """Raises Worse."""
        old = self._row.live
        if old is None or self._target.asked or not self._means.service.settings.reindex_gate:
            return
        try:
            score = await probe.compare(self._store, self._service, old, index)
        except NotFound:  # the old generation can not be asked any more: anything is better
            return
        if score.worse:
            await self._store.drop_index(index)
            raise Worse(f"the new index finds what the documents say with a score of {score}")

    async def _switch(self, index: Index) -> bool:
        """False where somebody else was faster."""
        while True:
            row = await self._store.row(self._row.kb)
            there = row.live is not None and row.live.generation == index.generation and not self._target.asked
            if there and row.live != index:
                await self._store.drop_index(index)
                return False
            if await self._store.switch(row.kb, row.version, index):
                return True

    async def _trim(self) -> None:
        """As many earlier indexes are kept as earlier generations of a model."""
        row = await self._store.row(self._row.kb)
        for index in row.previous[self._means.service.settings.keep_generations :]:
            await self._store.drop_index(index)

    def _progress(self, done: int, total: int) -> None:
        self._told(done, total)
        self._total = total
        tenths = 10 * done // total if total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            self._means.tell.emit(events.ReindexProgress(**self._facts(), documents=done, total=total))

    def _facts(self) -> dict[str, str]:
        row, target = self._row, self._target
        return {
            "kb": row.name,
            "owner": row.owner,
            "model": row.embedding_model.removeprefix("huggingface:"),
            "generation": target.generation.short,
        }


async def _always() -> bool:
    return True


def _short(index: Index | None) -> str | None:
    return index.generation[:12] if index else None

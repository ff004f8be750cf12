"""What stays: on the devices, on the disk and in the ledger. Derived from the entries whenever these change.

Nothing that anybody may still ask for is removed from the disk, and nothing is while new content arrives there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final

from cachetools import LRUCache

from gateway import events
from gateway.catalog import recall, retention
from gateway.catalog.entry import Entry, Kept
from gateway.catalog.ledger import Ledger, Record
from gateway.engine.engine import Engine
from gateway.lane import Lane
from gateway.model import Generation, ModelId
from gateway.settings import Settings, SettingsError
from gateway.volume.directory import Directory
from gateway.volume.generations import Store

SUMMONED: Final = 16  # generations that are not live, that clients asked for by name, and that may stay loaded
LARGE: Final = 2 * 1024**3  # bytes of a directory that is copied beside the others: few encoders have as many
PAUSES: Final = (0.2, 1.0, 3.0)  # seconds between tries to read the ledger: descriptors, or a disk, may come back


class Holdings:
    """`named` are digests that aliases ask for, and `held` those that indexes were made with. `records` is the lane of
    what only reads the store's records, which somebody may be waiting for: no copy holds it up."""

    def __init__(
        self,
        entries: Mapping[ModelId, Entry],
        store: Store,
        engine: Engine,
        tell: events.Events,
        settings: Settings,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        named: Callable[[], Collection[str]],
    ) -> None:
        self.records = Lane("records", 2)
        self._copies = Lane("copies", 2)
        self._large = Lane("large", 2)
        self.pruned = asyncio.Event()  # not set while the store is being pruned
        self.pruned.set()
        self.by_digest: dict[str, tuple[str, ...]] = {}  # the models of each live generation
        self.owners: dict[str, tuple[str, ...]] = {}  # the same, and of generations that clients asked for by name
        self.held: Callable[[], Collection[str]] = frozenset
        self._entries = entries
        self._store = store
        self._engine = engine
        self._events = tell
        self._settings = settings
        self._spawn = spawn
        self._named = named
        self._ledger = Ledger(settings.state_dir)
        self._writes = Lane("ledger")
        self._summoned: LRUCache[str, Generation] = LRUCache(SUMMONED)
        self._spared: set[str] = set()  # what a ledger may have named that nobody can read: it can still be mended
        self._prunings = 0
        self._writing = False
        self._unwritten = False  # something has changed since the ledger was last begun to be written

    async def restore(self) -> list[Entry]:
        """What was believed when the gateway last ran, of a store that is swept first. Raises SettingsError where the
        disk does not say: a start without it would free the disk from every last good generation."""
        await self._copies.run(self._store.sweep)
        try:
            records = await self._read()
        except OSError as error:
            where = self._settings.state_dir
            raise SettingsError(f"--state-dir {where}: the ledger cannot be read: {error}") from error
        except ValueError as error:
            self._spared = await self.records.run(self._store.digests)
            self._events.emit(events.Notice(code="ledger_unreadable", message=f"starting without it: {error}"))
            return []
        return [await self.records.run(recall.entry, record, self._store.open) for record in records]

    async def _read(self) -> list[Record]:
        for pause in PAUSES:
            try:
                return await self._writes.run(self._ledger.read)
            except OSError:
                await asyncio.sleep(pause)
        return await self._writes.run(self._ledger.read)

    def copies(self, directory: Directory) -> Lane:
        """Where a directory is judged and copied: those that take long hold up none of the others."""
        return self._large if directory.bytes >= LARGE else self._copies

    def judging(self) -> bool:
        return any(version.judging for entry in self._entries.values() for version in entry.versions.values())

    async def summon(self, digest: str) -> Generation | None:
        """A generation that is not live, which may be loaded from now on; None when the store has it no more."""
        generation = self._summoned.get(digest)
        if generation is None:
            generation = await self.records.run(self._store.open, digest)
            if generation is None:
                return None
            self._summoned[digest] = generation
            self.publish()
        return generation

    def publish(self) -> None:
        """Tells the engine what may stay."""
        named: dict[str, list[str]] = {}
        held = frozenset(self.held())  # loaded or not, it is never retired: its index may be asked at any time
        live: dict[str, Generation] = dict(self._summoned.items())
        live |= {each.digest: each.generation for each in self._earlier() if each.digest in held}
        for entry in self._entries.values():
            for generation in {g.digest: g for g in (entry.live, entry.successor) if g is not None}.values():
                live[generation.digest] = generation
                named.setdefault(generation.digest, []).append(entry.model.path)
        over = _bases(live.values())
        live |= {digest: base for digest, (base, _) in over.items()}
        self.by_digest = {digest: tuple(models) for digest, models in named.items()}
        others = live.keys() - self.by_digest.keys()  # few: for each of them all entries are looked through
        self.owners = self.by_digest | {digest: self._keepers(digest) for digest in others}
        for digest, (_, adapters) in over.items():  # a base that has gone is its adapters'
            self.owners[digest] = self.owners[digest] or tuple(m for each in adapters for m in self.owners[each])
        pinned = {e.live.digest: e.live for e in self._entries.values() if e.live and e.pinned and e.swapping is None}
        pinned |= {digest: base for digest, (base, _) in _bases(pinned.values()).items()}
        self._engine.keep(list(live.values()), list(pinned.values()))

    def _earlier(self) -> Iterator[Kept]:
        return (kept for entry in self._entries.values() for kept in entry.earlier)

    def _keepers(self, digest: str) -> tuple[str, ...]:
        holding = (e for e in self._entries.values() if any(kept.digest == digest for kept in e.generations()))
        return tuple(entry.model.path for entry in holding)

    def believe(self) -> None:
        """What changed for good: told to the engine, and written down."""
        retention.retain(
            self._entries.values(),
            keep=self._settings.keep_generations,
            budget=self._settings.generations_budget,
            named={*self._named(), *self.held()},
        )
        self.publish()
        self._unwritten = True
        if not self._writing:  # else whoever writes does it once more: many changes at once are one write
            self._writing = True
            self._spawn(self._record())

    async def _record(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = False
                await self._write()
        finally:
            self._writing = False

    async def _write(self) -> None:
        records = [found for entry in self._entries.values() if (found := recall.record(entry))]
        try:
            await self._writes.run(self._ledger.write, records)
        except OSError as error:
            self._events.emit(events.Notice(code="ledger_unwritable", message=str(error)))
            return
        self._spawn(self._prune())

    async def _prune(self) -> None:
        """Frees the disk from what nobody wants. Never while new content arrives: nobody wants that yet."""
        if self.judging():
            return
        self._prunings += 1
        self.pruned.clear()
        try:
            await self._copies.run(self._store.prune, self._wanted())
        except OSError as error:
            self._events.emit(events.Notice(code="store_not_pruned", message=str(error)))
        finally:
            self._prunings -= 1
            if not self._prunings:
                self.pruned.set()

    def _wanted(self) -> set[str]:
        """Generations that stay on disk."""
        wanted = self._spared.union(self._summoned)
        for entry in self._entries.values():
            wanted |= {kept.digest for kept in entry.generations()}
            wanted |= {entry.successor.digest} if entry.successor else set()
            there = [kept.generation for kept in entry.generations()]
            wanted |= set(_bases([*there, entry.successor] if entry.successor else there))
        return wanted | set(_bases(self._summoned.values()))


def _bases(generations: Iterable[Generation]) -> dict[str, tuple[Generation, list[str]]]:
    """By digest, the bases of those that are adapters, and the digests of these."""
    found: dict[str, tuple[Generation, list[str]]] = {}
    for generation in generations:
        if generation.base is not None:
            found.setdefault(generation.base.digest, (generation.base, []))[1].append(generation.digest)
    return found

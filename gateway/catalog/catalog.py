"""What may be served: for every model on the volume, the verdict on its newest content and its live generation.

Level-triggered: `reconcile` is given the whole truth and makes the catalog match it. A generation goes live in one
assignment, after it was copied, checked, and, when it replaces another, loaded and probed beside it. Whatever goes
wrong with new content, the last good generation goes on serving. The event loop owns all state here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Final

from cachetools import LRUCache

from gateway import events
from gateway.catalog.alias_edit import Pointer
from gateway.catalog.alias_file import Aliases, AliasFile
from gateway.catalog.aliases import FILE, AliasFault
from gateway.catalog.changes import Side, changes, known
from gateway.catalog.entry import Entry, Kept, Version, rank
from gateway.catalog.holdings import Holdings
from gateway.catalog.judge import Judge
from gateway.catalog.listing import count, show, trained
from gateway.catalog.lookup import Found, Lookup, live_of
from gateway.catalog.trial import Trial
from gateway.engine.engine import Engine
from gateway.errors import InvalidAlias, ModelNotFound, VolumeUnwritable
from gateway.model import Generation, ModelId, ModelRef
from gateway.settings import Settings
from gateway.tenants.caller import Caller
from gateway.volume.directory import Directory
from gateway.volume.generations import Store
from gateway.volume.settle import Observation, Snapshot
from gateway.volume.source import Ignored
from gateway.volume.volume import FileVolume, Volume

PARSED: Final = 4096  # spellings whose meaning is remembered


class Catalog:
    """`spawn` starts a task that the caller's task group owns; `look_again` asks for another look at the volume soon,
    and to start over with a model that changed while it was copied. Without a `volume` it is the
    directory that the settings name."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        tell: events.Events,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        look_again: Callable[[ModelId | None], None],
        clock: Callable[[], float] = time.monotonic,
        volume: Volume | None = None,
        alias_file: AliasFile | None = None,
    ) -> None:
        volume = volume or FileVolume(settings)
        self._keep = settings.keep_generations
        self._root = settings.models_dir
        self._place, self._folder = volume.place, volume.root
        self._store = store
        self._engine = engine
        self._events = tell
        self._spawn = spawn
        self._look_again = look_again
        self._entries: dict[ModelId, Entry] = {}
        self._parsed: LRUCache[str, ModelRef] = LRUCache(PARSED)
        self._stamp: frozenset[tuple[ModelId, str]] = frozenset()  # of the volume, at the last look
        self._shadowed: frozenset[str] = frozenset()  # aliases whose name a directory has
        self.ignored: tuple[Ignored, ...] = ()  # names on the volume that are no models
        self.looked = asyncio.Event()  # the volume has been looked at, and it is known what to serve
        self.judged = asyncio.Event()  # all that the first look found settled is judged
        self._first: list[Version] | None = None  # of those, the ones that are being judged yet
        self._known: frozenset[ModelId] = frozenset()  # models of an earlier run
        self._away = False  # the volume was asked, and could not be read
        self._holdings = Holdings(self._entries, store, engine, tell, settings, spawn=spawn, named=self._named)
        self._trial = Trial(engine, settings.swap_policy, self._holdings.publish)
        self._aliases = Aliases(
            volume.root,
            alias_file or AliasFile(volume.root, settings.state_dir),
            tell,
            spawn=spawn,
            look_again=look_again,
            known=self._unknown,
            looked=self.looked,
        )
        self._judge = Judge(
            self._entries,
            volume,
            store,
            engine,
            tell,
            holdings=self._holdings,
            trial=self._trial,
            spawn=spawn,
            look_again=look_again,
            clock=clock,
        )
        self._lookup = Lookup(self._entries, lambda: self._aliases.table, self.looked, self._holdings.summon)
        tell.subscribe(self._heard)

    # Questions.

    def parse(self, spelling: str) -> ModelRef:
        """Raises InvalidModelId."""
        ref = self._parsed.get(spelling)
        if ref is None:
            ref = self._parsed[spelling] = ModelRef.parse(spelling, self._root)
        return ref

    def lookup(self, caller: Caller) -> Lookup:
        """Finding what a caller may see."""
        return self._lookup.of(caller)

    async def find(self, ref: ModelRef, key: str = "") -> Found:
        """As `Lookup.find`."""
        return await self._lookup.find(ref, key)

    def live(self, ref: ModelRef) -> tuple[ModelId, Generation]:
        """What is live now, without canaries. Raises what `find` does."""
        entry, _ = self._lookup.entry(ref)
        return entry.model, live_of(entry)

    def resolve(self, ref: ModelRef) -> ModelId:
        """The id of a model that is there, whatever its state. Raises ModelNotFound."""
        return self._lookup.entry(ref)[0].model

    def listing(self) -> list[dict[str, Any]]:
        """Every model seen, in order of its name."""
        return self.shown(sorted(self._entries, key=lambda model: model.path))

    def shown(self, models: Iterable[ModelId]) -> list[dict[str, Any]]:
        """Those that are still there. Where everything is in memory is asked once, however many they are."""
        residences = self._engine.residences()
        entries = (self._entries.get(model) for model in models)
        return [
            self._placed(show(entry, residences, self._engine.quarantined(entry.live.digest) if entry.live else None))
            for entry in entries
            if entry is not None
        ]

    def show(self, model: ModelId) -> dict[str, Any]:
        """Raises ModelNotFound when it has gone meanwhile."""
        entry = self._entry(model)
        quarantine = self._engine.quarantined(entry.live.digest) if entry.live else None
        return self._placed(show(entry, self._engine.residences(), quarantine))

    def _placed(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the listing with paths as an operator knows them: of a bucket, URLs."""
        if self._place != self._folder:
            for each in (row, *row["versions"]):
                if each["path"]:
                    each["path"] = self._place + each["path"].removeprefix(self._folder)
        return row

    def trained(self) -> list[tuple[ModelId, dict[str, Any]]]:
        """The models that say what they were trained from, or what that came to, in order of their names."""
        found = [(entry.model, told) for entry in self._entries.values() if (told := trained(entry))]
        return sorted(found, key=lambda each: each[0].path)

    async def changes(self, model: ModelId, before: str | None, after: str | None) -> dict[str, Any]:
        """What changed between two generations of a model, by the beginnings of their digests: by default between the
        live one and the one before it, or nothing where there is only one. Raises ModelNotFound and
        GenerationNotFound."""
        entry = self._entry(model)
        newer = entry.target(after) if after else entry.serving
        if newer is None:
            raise entry.not_found("nothing that is live")
        older = entry.target(before) if before else entry.neighbour(newer)
        new = await self._side(entry, newer)
        old = await self._side(entry, older) if older else new
        there = [known(kept, entry.serving) for kept in entry.generations()]
        return {"model": str(model), "generations": there, **changes(old, new)}

    async def _side(self, entry: Entry, kept: Kept) -> Side:
        record = await self._holdings.records.run(self._store.record, kept.digest)
        if record is None:
            raise entry.not_found(f"no generation {kept.generation.short} any more", without=kept.digest)
        metadata = await self._holdings.records.run(self._store.noted, kept.digest, entry.model.path)
        return Side(kept, record, metadata, entry.serving)

    def count(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """As `listing.count`."""
        return count(self._entries.values(), self._engine.residences())

    def aliases(self) -> list[dict[str, Any]]:
        """The table in force, with what each alias leads to now."""
        return self._lookup.aliases()

    def has(self, model: ModelId) -> bool:
        """Whether it is on the volume, whatever its state."""
        return model in self._entries

    def models_of(self, digest: str) -> tuple[str, ...]:
        """The models whose live generation has this digest."""
        return self._holdings.by_digest.get(digest, ())

    def owners(self, digest: str) -> tuple[str, ...]:
        """The models that this digest may be loaded for, live or not."""
        return self._holdings.owners.get(digest, ())

    def served(self) -> dict[ModelId, int | None]:
        """Every directory there is, with the inode of the one that its content came from: so settling knows an update
        in place."""
        return {version.model: version.inode for entry in self._entries.values() for version in entry.versions.values()}

    def sources(self) -> dict[str, Directory]:
        """By digest, a directory of the volume that holds exactly this content now."""
        return {
            version.content.digest: version.directory
            for entry in self._entries.values()
            for version in entry.versions.values()
            if version.content is not None and version.directory is not None and version.holds_what_it_held
        }

    def needed(self) -> set[str]:
        """Digests of what may be loaded at any time by itself (pins and their bases), or asked for when its directory
        holds something else."""
        pinned = [entry.live for entry in self._entries.values() if entry.pinned and entry.live is not None]
        kept = {each.digest for live in pinned for each in (live, live.base) if each is not None}
        return kept | {*self._holdings.held(), *self._named()}

    @property
    def usable(self) -> bool:
        """Whether it is known what to serve: the volume was looked at, or it is away, and this is what it had."""
        return self.looked.is_set() or (self._away and any(entry.live for entry in self._entries.values()))

    # Changes.

    async def restore(self) -> None:
        """What was believed when the gateway last ran. Before the first look. Raises SettingsError."""
        for entry in await self._holdings.restore():
            self._entries[entry.model] = entry
        self._known = frozenset(self._entries)
        await self._aliases.restore()
        self._holdings.publish()

    def hold(self, held: Callable[[], Collection[str]]) -> None:
        """Digests of generations that stay on the disk and may be run, however many newer ones come: indexes that
        somebody asks were made with them. Asked whenever something changes; to be told before `restore`."""
        self._holdings.held = held

    def reconcile(self, snapshot: Snapshot) -> None:
        """Makes the catalog match one look at the volume."""
        self.ignored = snapshot.ignored
        before, self._stamp = self._stamp, _stamp(snapshot)
        for observation in snapshot.observations.values():
            self._see(observation)
        for model in snapshot.removed:
            self._remove(model)
        for observation in snapshot.observations.values():  # now that it is known which versions there are
            self._consider(observation, moved=self._stamp != before)
        if not self.judged.is_set():
            self._take_stock()
        self._aliases.look()
        self._tell_shadowed()

    def pin(self, model: ModelId, pinned: bool) -> None:
        self._entry(model).pinned = pinned
        self._holdings.believe()

    async def point(self, name: str, pointer: Pointer) -> None:
        """Has an alias lead elsewhere, on the volume. Raises InvalidAlias and VolumeUnwritable."""
        try:
            await self._aliases.point(name, pointer)
        except AliasFault as fault:
            raise InvalidAlias(str(fault)) from fault
        except OSError as error:
            raise VolumeUnwritable(f"{FILE} cannot be written: {error.strerror}") from error

    async def rollback(self, model: ModelId, to: str | None = None) -> None:
        """Makes an earlier generation live: the one whose digest begins with `to`, or the one before the live one. It
        is loaded and probed first, and stays until something newer is dropped. Raises GenerationNotFound, with those
        that are there, and what the engine raises."""
        entry = self._entry(model)
        target = entry.target(to)  # as the caller sees it now, whatever goes live before its turn comes
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._spawn(self._finish(self._roll_back(entry, target), done))
        await asyncio.shield(done)  # a caller that leaves ends only its waiting

    async def _finish(self, work: Coroutine[Any, Any, None], done: asyncio.Future[None]) -> None:
        try:
            await work
        except Exception as error:  # whoever waits is told, and the edge logs what nobody expected
            done.set_exception(error)
        else:
            done.set_result(None)

    async def _roll_back(self, entry: Entry, target: Kept) -> None:
        async with entry.turn:
            try:
                await self._bring_back(entry, target)
            finally:
                entry.end_swap()
                self._holdings.believe()

    async def _bring_back(self, entry: Entry, target: Kept) -> None:
        entry.successor = target.generation  # wanted from here on
        await self._holdings.pruned.wait()
        if await self._holdings.records.run(self._store.open, target.digest) is None:
            raise entry.not_found(f"no generation {target.generation.short} any more", without=target.digest)
        if entry.live is None or entry.live.digest != target.digest:
            await self._trial.run(entry, target.generation)
        self._entry(entry.model)  # it may have gone meanwhile
        before = entry.go_live(target)
        entry.hold_above(target)
        if before is not None:
            self._events.emit(
                events.ModelRolledBack(
                    model=entry.model.path,
                    generation=target.generation.short,
                    previous=before.generation.short,
                    breaking=entry.breaking,
                )
            )

    # What is seen.

    def _see(self, observation: Observation) -> None:
        directory = observation.directory
        model = directory.model
        entry = self._entries.get(model.family)
        if entry is None:
            entry = self._entries[model.family] = Entry(model.family)
        version = entry.versions.get(model.version)
        if version is None:
            version = entry.versions[model.version] = Version(model)
        version.directory = directory
        if observation.settled:
            version.waiting = ""
            return
        if not version.waiting and version.fingerprint != directory.fingerprint:
            self._events.emit(events.ModelCopying(model=model.path))
        version.waiting = observation.waiting or "it is changing"

    def _consider(self, observation: Observation, *, moved: bool) -> None:
        """`moved` says that something else on the volume has changed, for which an adapter may have waited."""
        directory = observation.directory
        entry = self._entries[directory.model.family]
        version = entry.versions[directory.model.version]
        if not observation.settled or version.judging is not None or not self._counts(entry, version):
            return
        changed = directory.fingerprint != version.fingerprint
        again = self._judge.is_due(version) or self._judge.base_moved(version)
        if changed or version.unconfirmed or again or (moved and version.waits_for_base):
            version.retry_wait = 0.0 if changed else version.retry_wait
            version.judging = self._spawn(self._judge.judge(entry, version, observation))

    def _take_stock(self) -> None:
        """What has settled since the first look is waited for by nobody: there may always be more of it."""
        seen = [each for entry in self._entries.values() for each in entry.versions.values()]
        self._first = [version for version in (seen if self._first is None else self._first) if version.judging]
        if self._aliases.read.is_set():
            if not any(self._is_awaited(version) for version in self._first):
                self.looked.set()
            if not self._first:
                self.judged.set()

    def _is_awaited(self, version: Version) -> bool:
        """Whether a start is over only when this is judged: of models of an earlier run, what nothing is served of
        meanwhile; where there was none, everything, since nothing could be served before."""
        entry = self._entries.get(version.model.family)
        return entry is not None and entry.live is None and (not self._known or entry.model in self._known)

    def _counts(self, entry: Entry, version: Version) -> bool:
        """Of numbered versions only the newest are copied: the live one, and as many as earlier ones are kept."""
        above = [
            other
            for other in entry.versions.values()
            if rank(other.number) > rank(version.number) and not other.reasons
        ]
        return len(above) <= self._keep or entry.source is version

    def _remove(self, model: ModelId) -> None:
        entry = self._entries.get(model.family)
        version = entry.versions.get(model.version) if entry else None
        if entry is None or version is None or version.judging is not None:
            return  # the end of judging looks again
        del entry.versions[model.version]
        content = version.content.generation.short if version.content else None
        if entry.versions:
            self._events.emit(events.ModelRemoved(model=model.path, generation=content))
            entry.hold_only_what_is_there()
            self._spawn(self._fall_back(entry))
        else:
            del self._entries[entry.model]
            generation = entry.live.short if entry.live else None
            self._events.emit(events.ModelRemoved(model=entry.model.path, generation=generation))
        self._holdings.believe()

    async def _fall_back(self, entry: Entry) -> None:
        """After a version has gone, which may have been the live one."""
        await self._judge.advance(entry)
        self._holdings.believe()
        self._look_again(None)

    # For the parts.

    def _entry(self, model: ModelId) -> Entry:
        if model not in self._entries:
            raise ModelNotFound(f"{model} has gone from the volume", model=str(model), closest=[])
        return self._entries[model]

    def _tell_shadowed(self) -> None:
        """Once for each alias that a directory has the name of."""
        shadowed = self._lookup.shadowed()
        for name in sorted(shadowed - self._shadowed):
            message = f"{name} is a directory on the volume, and an alias: the directory wins"
            self._events.emit(events.Notice(code="alias_shadowed", message=message))
        self._shadowed = shadowed

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.VolumeUnreadable):
            self._away = True
        if isinstance(event, events.LoadFailed | events.GenerationQuarantined | events.GenerationLoaded):
            for entry in self._entries.values():
                if entry.live is not None and entry.live.short == event.generation:
                    entry.load_error = "" if isinstance(event, events.GenerationLoaded) else event.message

    def _unknown(self, ref: ModelRef) -> str | None:
        return self._lookup.unknown(ref)

    def _named(self) -> set[str]:
        """Digests of generations that aliases ask for."""
        shorts = tuple(
            target.generation
            for alias in self._aliases.table.values()
            for target in alias.targets
            if target.generation is not None
        )
        kept = (kept for entry in self._entries.values() for kept in entry.earlier) if shorts else ()
        return {each.digest for each in kept if each.digest.startswith(shorts)}


def _stamp(snapshot: Snapshot) -> frozenset[tuple[ModelId, str]]:
    return frozenset((model, seen.directory.fingerprint) for model, seen in snapshot.observations.items())

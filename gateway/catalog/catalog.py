"""What may be served: for every directory on the volume, the verdict on its newest content and its live generation.

Level-triggered: `reconcile` is given the whole truth and makes the catalog match it. A generation goes live in one
assignment, after it was copied, checked, and, when it replaces another, loaded and probed beside it. Whatever goes
wrong with new content, the last good generation goes on serving. The event loop owns all state here.
"""

from __future__ import annotations

import asyncio
import difflib
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec
from cachetools import LRUCache

from gateway import events
from gateway.catalog.entry import Entry, breaks, show
from gateway.catalog.ledger import Ledger, Record
from gateway.engine.engine import Engine
from gateway.errors import GatewayError, GenerationNotFound, ModelCopying, ModelNotFound, ModelRejected, Starting
from gateway.lane import Lane
from gateway.model import Generation, ModelId, ModelRef, Reason
from gateway.volume import reasons
from gateway.volume.copying import Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Changed, Store
from gateway.volume.manifest import read_metadata
from gateway.volume.settle import Observation, Snapshot
from gateway.volume.source import Ignored

PARSED: Final = 4096  # spellings whose meaning is remembered
PASSING: Final = frozenset({"disk_full", "store_unwritable", "read_failed", "load_failed", "internal"})
FIRST_RETRY: Final = 10.0  # seconds until content that one of these stood against is judged again; doubled each time
LAST_RETRY: Final = 600.0
SUMMONED: Final = 16  # earlier generations that clients asked for by name, and that may stay loaded


class Catalog:
    """`root` is the models directory; `spawn` starts a task that the caller's task group owns; `look_again` asks for
    another look at the volume soon, and to start over with a model that changed while it was copied; `keep` earlier
    generations of each model stay on disk."""

    def __init__(
        self,
        root: str,
        store: Store,
        ledger: Ledger,
        engine: Engine,
        tell: events.Events,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        look_again: Callable[[ModelId | None], None],
        keep: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._store = store
        self._ledger = ledger
        self._engine = engine
        self._events = tell
        self._spawn = spawn
        self._look_again = look_again
        self._keep = keep
        self._clock = clock
        self._copies = Lane("copies", 2)
        self._writes = Lane("ledger")
        self._entries: dict[ModelId, Entry] = {}
        self._by_digest: dict[str, tuple[str, ...]] = {}
        self._parsed: LRUCache[str, ModelRef] = LRUCache(PARSED)
        self._summoned: LRUCache[str, Generation] = LRUCache(SUMMONED)
        self._prunings = 0
        self.ignored: tuple[Ignored, ...] = ()  # names on the volume that are no models
        self._pruned = asyncio.Event()  # not set while the store is being pruned
        self._pruned.set()
        self.looked = asyncio.Event()  # the volume has been looked at, and what was known before is judged
        tell.subscribe(self._heard)

    # Questions.

    def parse(self, spelling: str) -> ModelRef:
        """Raises InvalidModelId."""
        ref = self._parsed.get(spelling)
        if ref is None:
            ref = self._parsed[spelling] = ModelRef.parse(spelling, self._root)
        return ref

    def find(self, ref: ModelRef) -> tuple[ModelId, Generation]:
        """What is to be run for a client's reference. Raises ModelNotFound, GenerationNotFound, ModelCopying or
        ModelRejected, which say what was looked for and what would help."""
        entry = self._entry(ref)
        if ref.generation is not None:
            return entry.model, self._pinpoint(entry, ref.generation)
        if entry.live is not None:
            return entry.model, entry.live
        if entry.directory is None:  # known from an earlier run alone
            raise Starting("the volume has not been looked at yet", retry_after=1.0)
        if entry.reasons and not entry.waiting:
            raise ModelRejected(
                f"{entry.model} is on the volume and may not be served: {entry.reasons[0].message}",
                model=str(entry.model),
                reasons=msgspec.to_builtins(entry.reasons),
            )
        raise ModelCopying(
            f"{entry.model} is being copied: {entry.waiting or 'it is being checked'}", model=str(entry.model)
        )

    def resolve(self, ref: ModelRef) -> ModelId:
        """The id of a directory that is there, whatever its state. Raises ModelNotFound."""
        return self._entry(ref).model

    def listing(self) -> list[dict[str, Any]]:
        """Every directory seen, in order of its name."""
        residences = self._engine.residences()
        return [show(self._entries[model], residences) for model in sorted(self._entries, key=lambda m: m.path)]

    def show(self, model: ModelId) -> dict[str, Any]:
        return show(self._entries[model], self._engine.residences())

    def models_of(self, digest: str) -> tuple[str, ...]:
        """The models whose live generation has this digest."""
        return self._by_digest.get(digest, ())

    def served(self) -> dict[ModelId, int | None]:
        """Every model there is, with the inode of the directory that its live generation came from: so settling knows
        an update in place."""
        return {model: entry.inode for model, entry in self._entries.items()}

    # Changes.

    async def restore(self) -> None:
        """What was believed when the gateway last ran. Before the first look."""
        try:
            records = await self._writes.run(self._ledger.read)
        except (ValueError, OSError) as error:
            self._events.emit(events.Notice(code="ledger_unreadable", message=f"starting without it: {error}"))
            records = []
        for record in records:
            generation = await self._copies.run(self._store.open, record.live)
            entry = self._entries[ModelId.of(record.model)] = Entry(ModelId.of(record.model))
            entry.live, entry.previous, entry.pinned = generation, record.previous, record.pinned
            if generation is not None:  # else it was damaged, and its directory is judged anew
                entry.fingerprint, entry.inode = record.fingerprint, record.inode
        self._publish()

    def reconcile(self, snapshot: Snapshot) -> None:
        """Makes the catalog match one look at the volume."""
        self.ignored = snapshot.ignored
        for observation in snapshot.observations.values():
            self._observe(observation)
        for model in snapshot.removed & self._entries.keys():
            self._remove(self._entries[model])
        if not self._judging():
            self.looked.set()

    def pin(self, model: ModelId, pinned: bool) -> None:
        self._entries[model].pinned = pinned
        self._believe()

    def _observe(self, observation: Observation) -> None:
        directory = observation.directory
        entry = self._entries.get(directory.model)
        if entry is None:
            entry = self._entries[directory.model] = Entry(directory.model)
        entry.directory = directory
        if not observation.settled:
            if not entry.waiting and entry.fingerprint != directory.fingerprint:
                self._events.emit(events.ModelCopying(model=entry.model.path))
            entry.waiting = observation.waiting or "it is changing"
            return
        entry.waiting = ""
        changed = directory.fingerprint != entry.fingerprint
        if entry.judging is None and (changed or entry.unconfirmed or self._is_due(entry)):
            entry.retry_wait = 0.0 if changed else entry.retry_wait
            entry.judging = self._spawn(self._judge(entry, observation))

    def _is_due(self, entry: Entry) -> bool:
        """Whether what stood in the way may have gone: a full disk, a device without room, a host that died."""
        return entry.retry_at is not None and self._clock() >= entry.retry_at

    def _remove(self, entry: Entry) -> None:
        if entry.judging is not None:
            return  # its end looks again
        del self._entries[entry.model]
        generation = entry.live.short if entry.live else None
        self._events.emit(events.ModelRemoved(model=entry.model.path, generation=generation))
        self._believe()

    # New content.

    async def _judge(self, entry: Entry, observation: Observation) -> None:
        """From a settled directory to a verdict; never raises: one directory must not end the gateway."""
        directory = observation.directory
        try:
            await self._accept(entry, directory, observation.reason)
        except Changed:
            self._look_again(entry.model)
        except Refused as refused:
            self._reject(entry, directory, refused.reasons)
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            self._events.emit(events.Notice(code="judge_failed", message=f"{entry.model.path}: {told}"))
            message = f"judging the directory failed: {type(error).__name__}: {error}"
            self._reject(entry, directory, (reasons.reason("internal", message),))
        finally:
            entry.judging = None
            self._look_again(None)

    async def _accept(self, entry: Entry, directory: Directory, refusal: Reason | None) -> None:
        if refusal is not None:
            raise Refused((refusal,))
        await self._pruned.wait()
        if entry.live is not None and entry.unconfirmed and directory.fingerprint == entry.fingerprint:
            generation = entry.live  # known from before the start
        else:
            generation = await self._copies.run(self._store.accept, directory, self._root)
        metadata, trouble = await self._copies.run(read_metadata, directory.path, self._root)
        if entry.live is not None and entry.live.digest != generation.digest:
            await self._prepare(entry, generation)
        entry.metadata = metadata
        entry.warnings = (trouble,) if trouble else ()
        self._go_live(entry, directory, generation)

    async def _prepare(self, entry: Entry, generation: Generation) -> None:
        """Loads and probes a successor beside the live generation."""
        entry.successor = generation
        self._publish()
        try:
            await self._engine.load(generation)
        except GatewayError as error:
            reason = reasons.reason("load_failed", f"the new content could not be loaded: {error.message}")
            raise Refused((reason,)) from error
        finally:
            entry.successor = None  # it is live before anybody is told what may stay, or it may go

    def _go_live(self, entry: Entry, directory: Directory, generation: Generation) -> None:
        previous, entry.live = entry.live, generation
        entry.accepted = directory
        entry.fingerprint, entry.inode = directory.fingerprint, directory.inode
        entry.reasons = ()
        entry.retry_at = None
        age = max(0.0, time.time() - directory.newest_ctime_ns / 1e9)
        if previous is None:
            self._events.emit(
                events.ModelAccepted(
                    model=entry.model.path, generation=generation.short, bytes=directory.bytes, seconds=age
                )
            )
        elif previous.digest != generation.digest:
            entry.load_error = ""
            entry.previous = self._earlier(entry, previous, generation)
            self._events.emit(
                events.ModelSwapped(
                    model=entry.model.path,
                    generation=generation.short,
                    previous=previous.short,
                    breaking=breaks(previous, generation),
                )
            )
        self._believe()

    def _earlier(self, entry: Entry, previous: Generation, generation: Generation) -> tuple[str, ...]:
        kept = [previous.digest, *(digest for digest in entry.previous if digest != previous.digest)]
        return tuple(digest for digest in kept if digest != generation.digest)[: self._keep]

    def _reject(self, entry: Entry, directory: Directory, found: tuple[Reason, ...]) -> None:
        entry.fingerprint = directory.fingerprint
        if entry.live is not None:
            entry.accepted = directory
        entry.retry_at = None
        if any(reason.code in PASSING for reason in found):
            entry.retry_wait = min(LAST_RETRY, entry.retry_wait * 2 or FIRST_RETRY)
            entry.retry_at = self._clock() + entry.retry_wait
        if entry.reasons != found:
            entry.reasons = found
            serving = entry.live.short if entry.live else None
            self._events.emit(events.ModelRejected(model=entry.model.path, reasons=found, serving=serving))
        self._believe()

    def _publish(self) -> None:
        """Tells the engine what may stay."""
        named: dict[str, list[str]] = {}
        live: dict[str, Generation] = dict(self._summoned.items())
        for entry in self._entries.values():
            if entry.live is not None:
                live[entry.live.digest] = entry.live
                named.setdefault(entry.live.digest, []).append(entry.model.path)
            if entry.successor is not None:
                live[entry.successor.digest] = entry.successor
                named.setdefault(entry.successor.digest, []).append(entry.model.path)
        self._by_digest = {digest: tuple(models) for digest, models in named.items()}
        pinned = [entry.live for entry in self._entries.values() if entry.live and entry.pinned]
        self._engine.keep(list(live.values()), pinned)

    def _believe(self) -> None:
        """What changed for good: told to everybody, and written down."""
        self._publish()
        self._spawn(self._record())

    async def _record(self) -> None:
        records = [
            Record(
                model=entry.model.path,
                live=entry.live.digest,
                fingerprint=entry.fingerprint if not entry.reasons else "",
                inode=entry.inode or 0,
                previous=entry.previous,
                pinned=entry.pinned,
            )
            for entry in self._entries.values()
            if entry.live is not None
        ]
        try:
            await self._writes.run(self._ledger.write, records)
        except OSError as error:
            self._events.emit(events.Notice(code="ledger_unwritable", message=str(error)))
            return
        await self._prune()

    async def _prune(self) -> None:
        """Frees the disk from what nobody wants. Never while new content arrives: nobody wants that yet."""
        if self._judging():
            return
        self._prunings += 1
        self._pruned.clear()
        try:
            await self._copies.run(self._store.prune, self._wanted())
        except OSError as error:
            self._events.emit(events.Notice(code="store_not_pruned", message=str(error)))
        finally:
            self._prunings -= 1
            if not self._prunings:
                self._pruned.set()

    def _judging(self) -> bool:
        return any(entry.judging for entry in self._entries.values())

    def _wanted(self) -> set[str]:
        """Generations that stay on disk."""
        wanted = set(self._summoned)
        for entry in self._entries.values():
            wanted |= {*entry.previous, *(g.digest for g in (entry.live, entry.successor) if g is not None)}
        return wanted

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.LoadFailed | events.GenerationQuarantined | events.GenerationLoaded):
            for entry in self._entries.values():
                if entry.live is not None and entry.live.short == event.generation:
                    entry.load_error = "" if isinstance(event, events.GenerationLoaded) else event.message

    # Looking up.

    def _entry(self, ref: ModelRef) -> Entry:
        for candidate in ref.candidates:
            if candidate in self._entries:
                return self._entries[candidate]
        if not self.looked.is_set():
            raise Starting("the volume has not been looked at yet", retry_after=1.0)
        names = {candidate.name for candidate in ref.candidates}
        found = [entry for entry in self._entries.values() if ref.bare and entry.model.name in names]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(sorted(str(entry.model) for entry in found))
            raise ModelNotFound(f"{ref.spelling!r} is in several namespaces: {several}", model=ref.spelling)
        looked_for = " or ".join(candidate.path for candidate in ref.candidates)
        closest = self._closest(ref)
        hint = f"; the closest are {', '.join(closest)}" if closest else "; the volume holds none like it"
        raise ModelNotFound(
            f"no model {ref.spelling!r}: looked for {looked_for} on the volume{hint}",
            model=ref.spelling,
            closest=closest,
        )

    def _closest(self, ref: ModelRef) -> list[str]:
        paths = {model.path: str(model) for model in self._entries}
        names = {model.name: str(model) for model in self._entries}
        wanted = ref.candidates[0]
        # a bare name has no namespace to compare, and a namespace that is the same makes all of it alike
        found = [] if ref.bare else difflib.get_close_matches(wanted.path, paths, 3, 0.8)
        by_name = difflib.get_close_matches(wanted.name, names, 3, 0.5)
        return list(dict.fromkeys([*(paths[path] for path in found), *(names[name] for name in by_name)]))[:3]

    def _pinpoint(self, entry: Entry, short: str) -> Generation:
        if entry.live is not None and entry.live.digest.startswith(short):
            return entry.live
        for digest in entry.previous:
            if digest.startswith(short) and (generation := self._summon(digest)) is not None:
                return generation
        there = [entry.live.short] if entry.live else []
        there += [digest[:12] for digest in entry.previous if not digest.startswith(short)]
        raise GenerationNotFound(
            f"{entry.model} has no generation {short}; it has {', '.join(there) or 'none'}",
            model=str(entry.model),
            generations=there,
        )

    def _summon(self, digest: str) -> Generation | None:
        """An earlier generation, which may be loaded from now on; None when the store has it no more."""
        generation = self._summoned.get(digest)
        if generation is None:
            opened = self._store.open(digest)
            if opened is None:
                return None
            generation = self._summoned[digest] = opened
            self._publish()
        return generation

"""From a settled directory to what is served: copied to the store, judged, tried, and made live in one assignment.

Never raises: one directory must not end the gateway. Whatever goes wrong becomes the reasons of the directory, and the
generation that was live goes on.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from gateway import events
from gateway.catalog import golden
from gateway.catalog.changes import lasting
from gateway.catalog.entry import WAITING, Entry, Kept, Version
from gateway.catalog.holdings import Holdings
from gateway.catalog.trial import Trial, refusal
from gateway.engine.engine import Engine
from gateway.errors import GatewayError
from gateway.model import Generation, ModelId, Reason
from gateway.volume import reasons
from gateway.volume.adapters import references
from gateway.volume.bases import Base, search
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.files import Folder
from gateway.volume.generations import Store
from gateway.volume.manifest import not_ready
from gateway.volume.metadata import read_metadata, read_wish
from gateway.volume.pagecache import read_ahead
from gateway.volume.settle import Observation
from gateway.volume.volume import Volume

AWAY: Final = ("bucket_unreachable", "bucket_forbids")
PASSING: Final = WAITING | {"disk_full", "store_unwritable", "read_failed", "load_failed", "internal", *AWAY}
FIRST_RETRY: Final = 10.0  # seconds until content that one of these stood against is judged again; doubled each time
LAST_RETRY: Final = 600.0


class Judge:
    """`spawn` and `look_again` are the catalog's."""

    def __init__(
        self,
        entries: Mapping[ModelId, Entry],
        volume: Volume,
        store: Store,
        engine: Engine,
        tell: events.Events,
        *,
        holdings: Holdings,
        trial: Trial,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        look_again: Callable[[ModelId | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._entries = entries
        self._volume = volume
        self._root = volume.root
        self._store = store
        self._engine = engine
        self._events = tell
        self._holdings = holdings
        self._trial = trial
        self._spawn = spawn
        self._look_again = look_again
        self._clock = clock

    def is_due(self, version: Version) -> bool:
        """Whether what stood in the way may have gone: a full disk, a device without room, a host that died."""
        return version.retry_at is not None and self._clock() >= version.retry_at

    def base_moved(self, version: Version) -> bool:
        """Whether something else is live of an adapter's base than when the adapter was judged."""
        return version.base is not None and version.base_digest != self._digest(version.base)

    async def judge(self, entry: Entry, version: Version, observation: Observation) -> None:
        """Of one settled directory; then whatever follows from it for its model."""
        directory, known = observation.directory, version.base_digest
        if (
            version.base is not None
        ):  # so that a refusal before its base is looked for stays, until the base moves again
            version.base_digest = self._digest(version.base)
        try:
            await self._accept(entry, version, directory, observation.reason)
        except Changed:
            version.base_digest = known
            self._look_again(version.model)
        except Refused as refused:
            self._reject(entry, version, directory, refused.reasons)
        except Exception as error:
            self._reject(entry, version, directory, (self._bug(version, error),))
        try:
            await self.advance(entry)
        finally:
            version.judging = None
            self._holdings.believe()
            self._look_again(None)

    async def _accept(self, entry: Entry, version: Version, directory: Directory, refusal: Reason | None) -> None:
        """Into the store, and into the version's `content`."""
        if refusal is not None:
            raise Refused((refusal,))
        lane = self._holdings.copies(directory)
        version.accepting = True
        try:
            directory = await lane.run(self._volume.open, directory)
            base = await self._base(version, directory)
            kept = await self._take(entry, version, directory, base)
            chosen = await lane.run(self._store.choose, directory, self._root, base)
            metadata, trouble = await lane.run(read_metadata, chosen.path, self._root)
            await lane.run(self._store.note, kept.digest, entry.model.path, lasting(metadata))
        finally:
            version.accepting = False
            self._volume.shut(directory)
        changed = version.fingerprint != directory.fingerprint
        version.content, version.accepted, version.whole = kept, directory, True
        version.metadata = metadata
        version.golden, odd = golden.read(metadata)
        _, doubtful = read_wish(metadata)
        version.warnings = tuple(each for each in (chosen.warning, trouble, odd, doubtful) if each)
        version.fingerprint = directory.fingerprint
        entry.hold_only_what_is_there()
        if changed and entry.live is not None and entry.live.digest == kept.digest:
            self._forgive(entry, entry.live)

    async def _take(self, entry: Entry, version: Version, directory: Directory, base: Base | None) -> Kept:
        await self._holdings.pruned.wait()
        known = version.content
        if known is not None and version.unconfirmed and directory.fingerprint == version.fingerprint:
            below = known.generation.base
            if below is None or (base is not None and base.generation.digest == below.digest):
                return known  # from before the start
        lane = self._holdings.copies(directory)
        generation = await lane.run(self._store.accept, directory, self._root, base)
        size = await lane.run(self._store.bytes, generation.digest)
        await lane.run(read_ahead, generation)  # before its first request
        return entry.kept(generation, version, size)

    async def _base(self, version: Version, directory: Directory) -> Base | None:
        """What the adapter in a directory changes, as it is live; None for all other models, and where it is not."""
        found = await self._holdings.copies(directory).run(_look_for_base, directory, self._root)
        version.base, version.base_digest = found, None
        if found is not None:
            await self._arrival(found)
        if found is None:
            return None
        if (live := self._live(found)) is None:
            if self._volume.place != self._volume.root:  # what the base is cannot be read from where it lies
                raise Refused((not_ready(found.path, self._why_not(found)).reason,))
            return None
        version.base_digest = live.digest
        return Base(found, live)

    async def _arrival(self, base: ModelId) -> None:
        """Where a base that is not live yet is being judged, its end: else all adapters that came with it would be
        copied twice. What looks like an adapter itself is not waited for, so that no two wait for each other."""
        entry = self._entries.get(base.family)
        if entry is None or entry.live is not None:
            return
        judging = [version.judging for version in entry.versions.values() if version.judging and version.base is None]
        if judging:
            await asyncio.wait(judging)

    def _why_not(self, base: ModelId) -> str:
        entry = self._entries.get(base.family)
        reasons = entry.newest.reasons if entry and entry.newest else ()
        return reasons[0].message if reasons else "it has not been taken in yet"

    def _live(self, model: ModelId) -> Generation | None:
        """What is served under that name; of one version, what it holds."""
        entry = self._entries.get(model.family)
        if entry is None or model.version is None:
            return entry.live if entry else None
        version = entry.versions.get(model.version)
        return version.content.generation if version and version.content else None

    def _digest(self, model: ModelId) -> str | None:
        """Of what is served under that name."""
        live = self._live(model)
        return live.digest if live else None

    def _forgive(self, entry: Entry, generation: Generation) -> None:
        """Whatever changes in the directory of a generation that could not be loaded has it tried again."""
        if not entry.load_error and self._engine.quarantined(generation.digest) is None:
            return

        async def load() -> None:
            with suppress(GatewayError):  # told as an event
                await self._engine.load(generation)

        self._spawn(load())

    async def advance(self, entry: Entry) -> None:
        """Makes live what should be, in turn with whoever else changes this model; never raises."""
        async with entry.turn:
            while self._entries.get(entry.model) is entry and (version := entry.next_up()) is not None:
                try:
                    await self._promote(entry, version)
                except Refused as refused:
                    self._withdraw(entry, version, refused.reasons)
                except Exception as error:
                    self._withdraw(entry, version, (self._bug(version, error),))
                finally:
                    entry.end_swap()
            for version in entry.versions.values():
                self._confirm(version)

    async def _promote(self, entry: Entry, version: Version) -> None:
        kept = version.content
        assert kept is not None, "next_up answers versions with content"
        known = entry.live is not None and entry.live.digest == kept.digest
        if not known and (entry.live is not None or version.golden is not None):
            try:
                await self._trial.run(entry, kept.generation, version.golden)
            except GatewayError as error:
                raise refusal(error) from error
        self._go_live(entry, version, kept)

    def _go_live(self, entry: Entry, version: Version, kept: Kept) -> None:
        first = entry.serving is None
        before = entry.go_live(kept)
        entry.held -= {kept.digest}
        directory = version.accepted
        if first and directory is not None:
            age = max(0.0, time.time() - directory.newest_ctime_ns / 1e9)
            self._events.emit(
                events.ModelAccepted(
                    model=entry.model.path, generation=kept.generation.short, bytes=directory.bytes, seconds=age
                )
            )
        elif before is not None:
            self._events.emit(
                events.ModelSwapped(
                    model=entry.model.path,
                    generation=kept.generation.short,
                    previous=before.generation.short,
                    breaking=entry.breaking,
                )
            )
        entry.end_swap()
        self._holdings.publish()

    def _confirm(self, version: Version) -> None:
        """What it holds is good."""
        if version.whole and version.accepted is not None:
            version.inode = version.accepted.inode
            version.reasons = ()
            version.retry_at = None

    def _withdraw(self, entry: Entry, version: Version, found: tuple[Reason, ...]) -> None:
        """Content that was whole and did not pass its trial: nothing of it is kept."""
        assert version.directory is not None, "only what was seen is tried"
        judged, version.content = version.accepted, None
        self._reject(entry, version, judged or version.directory, found)

    def _reject(self, entry: Entry, version: Version, directory: Directory, found: tuple[Reason, ...]) -> None:
        version.fingerprint, version.whole = directory.fingerprint, False
        if version.content is not None:
            version.accepted = directory
        version.retry_at = None
        if any(reason.code in PASSING for reason in found):
            version.retry_wait = min(LAST_RETRY, version.retry_wait * 2 or FIRST_RETRY)
            version.retry_at = self._clock() + version.retry_wait
        if version.reasons != found:
            version.reasons = found
            serving = entry.live.short if entry.live else None
            self._events.emit(events.ModelRejected(model=version.model.path, reasons=found, serving=serving))

    def _bug(self, version: Version, error: Exception) -> Reason:
        told = "".join(traceback.format_exception(error))
        self._events.emit(events.Notice(code="judge_failed", message=f"{version.model.path}: {told}"))
        return reasons.reason("internal", f"judging the directory failed: {type(error).__name__}: {error}")


def _look_for_base(directory: Directory, root: str) -> ModelId | None:
    """The model on the volume that an adapter is over; None for all other models. Blocking."""
    inner = directory.nested
    for path in (directory.path, *([inner.path] if inner else [])):
        if named := references(Folder(path, os.path.realpath(root))):
            found = search(named, root)
            return found.model if found else None
    return None

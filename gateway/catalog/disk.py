"""Which weights of a bucket's models are on this node's disk, within a budget of bytes.

Live generations whose content lies in the bucket may lose their weights, the least recently asked for first, and never
while somebody uses them. Whoever asks then waits until they are back, or is told when to come again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from gateway import events
from gateway.errors import ModelLoading
from gateway.lane import Lane
from gateway.model import Generation
from gateway.volume.bucket import BucketVolume
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory
from gateway.volume.generations import Store
from gateway.volume.record import kept_name
from gateway.volume.thin import Thin

PERIOD: Final = 5.0  # seconds between looks at the budget
AGAIN: Final = 5.0  # seconds after which a client may come back
SPARE: Final = 1.0  # seconds before a client's deadline at which it is told so


class Disk:
    """`sources` has, by digest, the directories that hold exactly that content now; `needed` are the digests that are
    in memory, or may be without anybody asking; `spawn` starts a task that the caller's task group owns. The event loop
    owns all state here."""

    def __init__(
        self,
        volume: BucketVolume,
        store: Store,
        tell: events.Events,
        *,
        budget: int,
        sources: Callable[[], Mapping[str, Directory]],
        needed: Callable[[], Collection[str]],
        names: Callable[[str], tuple[str, ...]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._volume = volume
        self._store = store
        self._events = tell
        self._budget = budget
        self._sources = sources
        self._needed = needed
        self._names = names
        self._spawn = spawn
        self._clock = clock
        self._thin = Thin(store)
        self._lane = Lane("disk", 2)
        self._gone: set[str] = set()  # without weights
        self._users: Counter[str] = Counter()
        self._used: dict[str, float] = {}
        self._sizes: dict[str, int] = {}  # bytes of weights
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._tidying = asyncio.Lock()

    def begin(self) -> None:
        """What an earlier run left without weights. Blocking; before anything is asked for."""
        self._gone = self._thin.digests()

    @asynccontextmanager
    async def holding(self, generation: Generation, deadline: float | None = None) -> AsyncIterator[None]:
        """Its weights and those of its base are on the disk, until the block ends. Raises ModelLoading where that takes
        longer than until the deadline, a time of the running loop."""
        wanted = [each for each in (generation, generation.base) if each is not None]
        for each in wanted:
            self._users[each.digest] += 1
            self._used[each.digest] = self._clock()
        try:
            for each in wanted:
                await self._present(each, deadline)
            yield
        finally:
            for each in wanted:
                self._users[each.digest] -= 1
                if not self._users[each.digest]:
                    del self._users[each.digest]

    def has(self, generation: Generation) -> bool:
        return generation.digest not in self._gone

    def want(self, generation: Generation, then: Callable[[], None]) -> None:
        """Brings its weights and calls `then`; nothing is called where they cannot be had for now."""
        self._begin(generation).add_done_callback(lambda _: then() if self.has(generation) else None)

    def _begin(self, generation: Generation) -> asyncio.Task[None]:
        """One fetch, however many wait for it."""
        task = self._fetching.get(generation.digest)
        if task is None:
            task = self._fetching[generation.digest] = self._spawn(self._fetch(generation))
        return task

    async def follow(self) -> None:
        """Keeps to the budget. To be run once, as a task."""
        while True:
            await asyncio.sleep(PERIOD)
            await self.tidy()

    async def tidy(self, needed: int = 0) -> None:
        """Lets go of weights until there are as few bytes as there may be, with room for `needed` more."""
        async with self._tidying:
            there = await self._lane.run(self._weigh)
            for digest in self._over(there, needed):
                if digest in self._gone or self._users[digest] or digest in self._needed():
                    continue  # somebody came meanwhile
                self._gone.add(digest)  # from here on whoever asks waits
                try:
                    await self._lane.run(self._let_go, digest)
                except Refused as error:
                    self._events.emit(events.Notice(code="store_not_pruned", message=str(error)))
                    continue
                self._events.emit(
                    events.GenerationThinned(
                        generation=digest[:12], models=self._names(digest), bytes=self._sizes.get(digest, 0)
                    )
                )

    def _over(self, there: Collection[str], needed: int) -> list[str]:
        """What goes, in this order: enough of it, or all that may."""
        self._gone &= set(there)
        self._sizes = {digest: self._sizes[digest] for digest in there}
        self._used = {digest: used for digest, used in self._used.items() if digest in there}
        kept = {digest: self._sizes[digest] for digest in there if digest not in self._gone}
        over = sum(kept.values()) + needed - self._budget
        free = self._sources().keys() & kept.keys() - set(self._needed())
        chosen = []
        for digest in sorted(free, key=lambda digest: (self._used.get(digest, 0.0), digest)):
            if over <= 0:
                break
            if not self._users[digest] and kept[digest]:
                chosen.append(digest)
                over -= kept[digest]
        return chosen

    async def _present(self, generation: Generation, deadline: float | None) -> None:
        while generation.digest in self._gone:
            task = self._begin(generation)
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time() - SPARE)
            await asyncio.wait({task}, timeout=left)
            if generation.digest in self._gone and (not task.done() or self._fetching.get(generation.digest) is None):
                raise self._come_back(generation)

    def _come_back(self, generation: Generation) -> ModelLoading:
        name = next(iter(self._names(generation.digest)), generation.short)
        message = f"the weights of {name} were let go from this node's disk, and are not back from the bucket yet"
        return ModelLoading(message, retry_after=AGAIN, model=name)

    async def _fetch(self, generation: Generation) -> None:
        """From asked to there, or given up; raises nothing of what may go wrong with one generation."""
        digest = generation.digest
        try:
            source = self._sources().get(digest)
            if source is None:
                raise Changed(digest)  # noqa: TRY301  # as if it had changed a moment later
            await self.tidy(self._sizes.get(digest, 0))
            await self._lane.run(self._bring_back, digest, source)
            self._gone.discard(digest)
        except Changed:
            message = f"{generation.short}: the bucket has other content than was let go"
            self._events.emit(events.Notice(code="weights_not_fetched", message=message))
        except (Refused, OSError) as error:
            self._events.emit(events.Notice(code="weights_not_fetched", message=f"{generation.short}: {error}"))
        except Exception as error:  # a bug, of which this one generation goes without its weights
            message = f"{generation.short}: {type(error).__name__}: {error}"
            self._events.emit(events.Notice(code="weights_not_fetched", message=message))
        finally:
            del self._fetching[digest]

    # On the lane.

    def _weigh(self) -> set[str]:
        there = self._store.digests()
        for digest in there - self._sizes.keys():
            self._sizes[digest] = sum(file.size for file in self._thin.weights(digest))
        return there

    def _let_go(self, digest: str) -> None:
        self._thin.cut(digest)
        self._volume.let_go({file.sha256 for file in self._thin.weights(digest)})

    def _bring_back(self, digest: str, source: Directory) -> None:
        names = {kept_name(file.path): file.path for file in source.files}
        opened = self._volume.open(source)
        try:
            wanted = [names[file.path] for file in self._thin.weights(digest) if file.path in names]
            self._volume.bring(opened, wanted)
            self._thin.fill(digest, lambda name, target: self._volume.take(opened, names.get(name, name), target))
        finally:
            self._volume.shut(opened)

"""What *is* in device memory: loaded generations, least recently used first to go, within a budget of bytes.

Decisions are plain functions between two awaits, made on one event loop; the slow part, loading and closing, follows
in tasks that the pool owns. What must stay true:

* reserved and measured bytes together never exceed the budget; bytes count until `close()` has returned;
* a leased generation is never closed: it is retired, and closed when its last lease ends;
* one load a generation, however many wait for it; a waiter that leaves ends only its own waiting;
* whoever waits for room gets it in order: idle generations go first, then the busy one that was used longest ago.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Protocol

from cachetools import LRUCache

from gateway.errors import DoesNotFit, GatewayError, LoadFailed
from gateway.model import Generation

FIRST_BACKOFF = 5.0
LAST_BACKOFF = 300.0


class Runtime(Protocol):
    """A loaded generation. `bytes` is what it holds on the device, measured."""

    @property
    def bytes(self) -> int: ...


class Loader(Protocol):
    """How the pool's slow work is done; both are awaited in tasks of the pool's own."""

    async def load(self, generation: Generation) -> Runtime:
        """Raises GatewayError; a load that failed holds nothing."""

    async def close(self, runtime: Runtime) -> None:
        """The bytes are free when this returns."""

    def predict(self, generation: Generation) -> int:
        """Bytes that a load will take, never less than it does take."""


class State(Enum):
    WAITING = "waiting"  # for room
    LOADING = "loading"
    LOADED = "loaded"
    LEAVING = "leaving"  # no new leases; closed when the last one ends


class Slot:
    """One generation's place in the pool. Owned by the pool; others only hold leases."""

    def __init__(self, generation: Generation, size: int, now: float) -> None:
        self.generation = generation
        self.bytes = size
        self.state = State.WAITING
        self.leases = 0
        self.waiters = 0
        self.began = now
        self.last_used = now
        self.why = ""
        self.runtime: Runtime | None = None
        self.loaded: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()  # out of the pool, bytes and all

    def __repr__(self) -> str:
        return f"<{self.generation.short} {self.state.value} {self.bytes} leases={self.leases}>"


class Failure:
    """A load that failed: remembered until `until`, and for the length of the next backoff."""

    def __init__(self, error: GatewayError, until: float, backoff: float) -> None:
        self.error = error
        self.until = until
        self.backoff = backoff


class Observer(Protocol):
    """Who is told of what the pool did. Called between awaits; must not touch the pool."""

    def loaded(self, slot: Slot, seconds: float) -> None: ...
    def unloaded(self, slot: Slot, idle_seconds: float) -> None: ...
    def failed(self, slot: Slot, error: GatewayError) -> None: ...
    def changed(self) -> None: ...


class Pool:
    """`budget` in bytes; `limit` a number of generations beside it, 0 for none."""

    def __init__(
        self,
        loader: Loader,
        observer: Observer,
        budget: int,
        limit: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = loader
        self._observer = observer
        self.budget = budget
        self.limit = limit or math.inf
        self._clock = clock
        self._slots: dict[str, Slot] = {}  # what may be leased, loaded or on its way
        self._leaving: set[Slot] = set()  # counted until closed
        self._waiting: deque[Slot] = deque()  # for room, in order
        self._idle: LRUCache[str, Slot] = LRUCache(math.inf)  # loaded, no lease, not pinned
        self._live: frozenset[str] | None = None  # None: nobody has said yet, all is
        self._pinned: frozenset[str] = frozenset()
        self._failures: dict[str, Failure] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Pool {self.used}/{self.budget} {list(self._slots.values())} leaving={list(self._leaving)}>"

    @property
    def used(self) -> int:
        """Bytes that are taken or promised."""
        held = sum(slot.bytes for slot in self._slots.values() if slot.state is not State.WAITING)
        return held + sum(slot.bytes for slot in self._leaving)

    def slots(self) -> list[Slot]:
        return [*self._slots.values(), *self._leaving]

    def pinned(self, digest: str) -> bool:
        return digest in self._pinned

    @asynccontextmanager
    async def lease(self, generation: Generation) -> AsyncIterator[Runtime]:
        """The right to use a generation, loaded if need be. It is not unloaded before the block ends.

        Raises LoadFailed (remembered, with a backoff) or DoesNotFit.
        """
        slot = self._slot(generation)
        slot.waiters += 1
        try:
            runtime = await asyncio.shield(slot.loaded)
        except BaseException:
            slot.waiters -= 1
            self._forget_unwanted(slot)
            raise
        # No await between the future's result and here can retire the slot unseen: `_leave` checks the waiters.
        slot.waiters -= 1
        slot.leases += 1
        slot.last_used = self._clock()
        self._idle.pop(slot.generation.digest, None)
        try:
            yield runtime
        finally:
            self._release(slot)

    async def load(self, generation: Generation) -> None:
        """Loads on request of an operator or a swap: an earlier failure does not count."""
        self._failures.pop(generation.digest, None)
        async with self.lease(generation):
            pass

    async def unload(self, digest: str, why: str = "requested") -> None:
        """Retires a generation, and returns when its bytes are free: after its last lease. It may not be there."""
        if slot := self._slots.get(digest):
            self._leave(slot, why)
            self._admit()
        await asyncio.gather(*(slot.gone.wait() for slot in self._leaving if slot.generation.digest == digest))

    def keep(self, live: frozenset[str], pinned: frozenset[str]) -> None:
        """Retires what is not live, forgets its failures, and pins what is pinned."""
        self._live, self._pinned = live, pinned
        self._failures = {digest: failure for digest, failure in self._failures.items() if digest in live}
        for slot in list(self._slots.values()):
            digest = slot.generation.digest
            if digest not in live:
                self._leave(slot, "retired")
            elif slot.state is State.LOADED and not slot.leases:
                self._rest(slot)
        self._admit()

    async def close(self) -> None:
        """Closes everything. Call it when no lease is left."""
        for slot in list(self._slots.values()):
            self._leave(slot, "stopped")
        while self._tasks:
            await asyncio.wait(self._tasks)

    def evict_idle(self, why: str = "evicted") -> None:
        """Lets every idle generation go: what to do when the device itself says it is full."""
        for slot in list(self._idle.values()):
            self._leave(slot, why)

    # Deciding: no awaits from here on.

    def _slot(self, generation: Generation) -> Slot:
        digest = generation.digest
        if digest in self._slots:
            return self._slots[digest]
        self._refuse_if_failed(digest)
        size = self._loader.predict(generation)
        if error := self._never_fits(digest, size):
            raise error
        slot = self._slots[digest] = Slot(generation, size, self._clock())
        slot.loaded.add_done_callback(_retrieve)
        self._waiting.append(slot)
        self._admit()
        return slot

    def _refuse_if_failed(self, digest: str) -> None:
        failure = self._failures.get(digest)
        if failure and self._clock() < failure.until:
            error = failure.error
            wait = failure.until - self._clock()
            raise type(error)(error.message, retry_after=wait, **error.details)

    def _admit(self) -> None:
        """Starts the loads that there is room for, and makes room for the next."""
        while self._waiting:
            slot = self._waiting[0]
            if self._fits(slot.bytes, self.used, len(self._held())):
                self._waiting.popleft()
                slot.state = State.LOADING
                self._spawn(self._load(slot))
                continue
            coming = sum(leaving.bytes for leaving in self._leaving)
            if self._fits(slot.bytes, self.used - coming, len(self._held()) - len(self._leaving)):
                break  # room is on its way
            victim = self._victim()
            if victim is not None:
                self._leave(victim, "evicted")
            elif error := self._never_fits(slot.generation.digest, slot.bytes):  # others were pinned while it waited
                self._waiting.popleft()
                del self._slots[slot.generation.digest]
                _fail(slot, error)
            else:
                break  # the end of a load, or of a lease, calls again
        self._observer.changed()

    def _never_fits(self, digest: str, size: int) -> DoesNotFit | None:
        others = {slot.generation.digest: slot.bytes for slot in self._slots.values()}
        pinned = [taken for other, taken in others.items() if other in self._pinned and other != digest]
        room = self.budget - sum(pinned)
        if size <= room and len(pinned) < self.limit:
            return None
        beside = f" of {self.budget} beside what is pinned" if pinned else ""
        return DoesNotFit(
            f"the model takes {size} bytes of device memory, and the budget leaves {room}{beside}",
            bytes=size,
            budget=self.budget,
        )

    def _fits(self, size: int, used: int, count: int) -> bool:
        return used + size <= self.budget and count < self.limit

    def _held(self) -> list[Slot]:
        return [slot for slot in self.slots() if slot.state is not State.WAITING]

    def _victim(self) -> Slot | None:
        """The idle generation that was used longest ago; if none is idle, the busy one, so that none starves."""
        if self._idle:
            return self._idle[next(iter(self._idle))]
        busy = [
            slot
            for slot in self._slots.values()
            if slot.state is State.LOADED and slot.leases and slot.generation.digest not in self._pinned
        ]
        return min(busy, key=lambda slot: slot.last_used, default=None)

    def _leave(self, slot: Slot, why: str) -> None:
        """No new leases. Closes now, or when the last lease ends; a load that runs is closed when it has ended."""
        digest = slot.generation.digest
        if self._slots.get(digest) is slot:  # a successor may hold the key already
            del self._slots[digest]
        if self._idle.get(digest) is slot:
            del self._idle[digest]
        slot.why = slot.why or why
        if slot.state is State.WAITING:
            self._waiting.remove(slot)
            _fail(slot, LoadFailed("the model was withdrawn before it was loaded", retry_after=1.0))
            return
        loading, slot.state = slot.state is State.LOADING, State.LEAVING
        self._leaving.add(slot)
        if not loading and not slot.leases and not slot.waiters:
            self._spawn(self._close(slot))

    def _release(self, slot: Slot) -> None:
        slot.leases -= 1
        slot.last_used = self._clock()
        if slot.leases or slot.waiters:
            return
        if slot.state is State.LEAVING:
            self._spawn(self._close(slot))
        else:
            self._rest(slot)
            self._admit()

    def _rest(self, slot: Slot) -> None:
        digest = slot.generation.digest
        if self._live is not None and digest not in self._live:
            self._leave(slot, "retired")  # asked for before it was withdrawn, and loaded once more for that
        elif digest in self._pinned:
            self._idle.pop(digest, None)
        elif digest not in self._idle:
            self._idle[digest] = slot

    def _forget_unwanted(self, slot: Slot) -> None:
        """A load that has not begun and that nobody waits for any more is not begun."""
        if slot.waiters:
            return
        if slot.state is State.WAITING and slot in self._waiting:
            self._leave(slot, "unwanted")
            self._admit()
        elif slot.state is State.LEAVING and slot.runtime is not None and not slot.leases:
            self._spawn(self._close(slot))
        elif slot.state is State.LOADED and not slot.leases:
            self._rest(slot)
            self._admit()

    # Acting: tasks of the pool's own.

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, slot: Slot) -> None:
        began = self._clock()
        try:
            runtime = await self._loader.load(slot.generation)
        except GatewayError as error:
            self._load_failed(slot, _bare(error))
            return
        except Exception as error:  # a load reads what strangers wrote: whatever goes wrong is that model's failure
            self._load_failed(slot, LoadFailed(f"{type(error).__name__}: {error}"))
            return
        slot.runtime = runtime
        slot.bytes = runtime.bytes
        self._failures.pop(slot.generation.digest, None)
        slot.loaded.set_result(runtime)
        self._observer.loaded(slot, self._clock() - began)
        if slot.state is State.LEAVING:  # withdrawn while it was loading
            if not slot.waiters:
                self._spawn(self._close(slot))
            return
        slot.state = State.LOADED
        if not slot.waiters:
            self._rest(slot)
        while self.used > self.budget and self._idle:  # a prediction fell short: others pay for it at once
            self._leave(self._idle[next(iter(self._idle))], "evicted")
        self._admit()

    def _load_failed(self, slot: Slot, error: GatewayError) -> None:
        digest = slot.generation.digest
        known = self._failures.get(digest)
        backoff = min(LAST_BACKOFF, known.backoff * 2) if known else FIRST_BACKOFF
        if error.retry_after is None and isinstance(error, LoadFailed):
            error.retry_after = backoff
        self._failures[digest] = Failure(error, self._clock() + backoff, backoff)
        if self._slots.get(digest) is slot:
            del self._slots[digest]
        self._leaving.discard(slot)
        slot.gone.set()
        self._observer.failed(slot, error)
        _fail(slot, error)
        self._admit()

    async def _close(self, slot: Slot) -> None:
        assert slot.runtime is not None
        runtime, slot.runtime = slot.runtime, None
        await self._loader.close(runtime)
        self._leaving.discard(slot)
        slot.gone.set()
        self._observer.unloaded(slot, self._clock() - slot.last_used)
        self._admit()


def _bare(error: GatewayError) -> GatewayError:
    """Without its tracebacks: it is remembered, and their frames hold all that the load had read."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _fail(slot: Slot, error: GatewayError) -> None:
    if not slot.loaded.done():
        slot.loaded.set_exception(error)


def _retrieve(future: asyncio.Future[Runtime]) -> None:
    """A failure that nobody waits for any more is not an unhandled one: the pool has told it as an event."""
    if not future.cancelled():
        future.exception()

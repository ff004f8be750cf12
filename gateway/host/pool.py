"""What *is* in device memory: loaded generations, least recently used first to go, within a budget of bytes.

Decisions are plain functions between two awaits, made on one event loop; the slow part, loading and closing, follows
in tasks that the pool owns. What must stay true:

* reserved and measured bytes together never exceed the budget; bytes count until `close()` has returned;
* a leased generation is never closed: it is retired, and closed when its last lease ends;
* one load a generation, however many wait for it; a waiter that leaves ends only its own waiting;
* whoever waits for room gets it in order: idle generations go first, then the busy one that was used longest ago;
* what is evicted may be parked in host memory (`tier`); what is retired, or unloaded on request, is not.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from cachetools import LRUCache

from gateway.errors import DoesNotFit, GatewayError, LoadFailed
from gateway.host import panic
from gateway.host.failures import Failures
from gateway.host.pace import Pace
from gateway.host.slot import Loader, Observer, Runtime, Slot, State
from gateway.host.tier import Tier
from gateway.model import Generation

EVICTED: Final = "evicted"  # for another's sake, and so perhaps only as far as host memory


class Pool:
    """`budget` in bytes; `limit` a number of generations beside it, 0 for none; `host_budget` in bytes of host memory
    for what is evicted, 0 for none."""

    def __init__(
        self,
        loader: Loader,
        observer: Observer,
        budget: int,
        limit: int = 0,
        clock: Callable[[], float] = time.monotonic,
        *,
        host_budget: int = 0,
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
        self._failures = Failures(clock)
        self._pace = Pace()
        self.tier = Tier(loader, host_budget)
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Pool {self.used}/{self.budget} {list(self._slots.values())} leaving={list(self._leaving)}>"

    @property
    def used(self) -> int:
        """Bytes that are taken or promised."""
        held = sum(slot.bytes for slot in self._slots.values() if slot.state is not State.WAITING)
        return held + sum(slot.bytes for slot in self._leaving)

    @property
    def now(self) -> float:
        """By the clock that `last_used` goes by."""
        return self._clock()

    def slots(self) -> list[Slot]:
        return [*self._slots.values(), *self._leaving]

    def pinned(self, digest: str) -> bool:
        return digest in self._pinned

    def seconds_left(self, digest: str) -> float:
        """Estimated, until that generation can be leased; 0 for one that can, or that is not on its way."""
        slot = self._slots.get(digest)
        if slot is None or slot.state is State.LOADED:
            return 0.0
        whole = self._pace.seconds(digest, slot.bytes)
        if slot.state is State.LOADING:
            return max(whole - (self._clock() - slot.began), whole / 10)
        ahead = list(self._waiting)[: self._waiting.index(slot)]
        return whole + sum(self._pace.seconds(other.generation.digest, other.bytes) for other in ahead)

    @asynccontextmanager
    async def lease(self, generation: Generation, *, join: bool = False) -> AsyncIterator[Runtime]:
        """The right to use a generation, loaded if need be. It is not unloaded before the block ends.
        `join`: of one that is retired and in use too, for what such a use waits for; else each waits for the other.

        Raises LoadFailed (remembered, with a backoff) or DoesNotFit.
        """
        slot = (self._retired(generation.digest) if join else None) or self._slot(generation)
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
        self._failures.forget(generation.digest)
        async with self.lease(generation):
            pass

    async def unload(self, digest: str, why: str = "requested") -> None:
        """Retires a generation, and returns when its bytes are free, those in host memory too: after its last lease.
        It may not be there."""
        if slot := self._slots.get(digest):
            self._leave(slot, why)
            self._admit()
        await asyncio.gather(*(slot.gone.wait() for slot in self._leaving if slot.generation.digest == digest))
        await self.tier.drop([digest])
        self._observer.changed()

    def keep(self, live: frozenset[str], pinned: frozenset[str]) -> None:
        """Retires what is not live, forgets its failures, and pins what is pinned."""
        self._live, self._pinned = live, pinned
        self._failures.keep(live)
        if parked := self.tier.keep(live):
            self._spawn(self._drop(parked))
        for slot in list(self._slots.values()):
            digest = slot.generation.digest
            if digest not in live:
                if slot.state is not State.WAITING or not slot.waiters:  # who asked before is answered: see `_rest`
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
        await self.tier.drop()

    async def give_way(self) -> None:
        """What to do when memory itself says that it is full: all that is parked goes, and every idle generation, and
        their bytes are free when this returns. What somebody has come for meanwhile is not waited for."""
        going = list(self._idle.values())
        for slot in going:
            self._leave(slot, "out_of_memory")
        await asyncio.gather(self.tier.drop(), *(slot.gone.wait() for slot in going if slot.closing))

    # Deciding: no awaits from here on.

    def _slot(self, generation: Generation) -> Slot:
        digest = generation.digest
        if digest in self._slots:
            return self._slots[digest]
        self._failures.refuse(digest)
        size = self._loader.predict(generation)
        if error := self._never_fits(digest, size):
            raise error
        slot = self._slots[digest] = Slot(generation, size, self._clock())
        slot.loaded.add_done_callback(_retrieve)
        self._waiting.append(slot)
        self._admit()
        return slot

    def _retired(self, digest: str) -> Slot | None:
        """What is retired and in use, if nothing is loaded in its place."""
        successor = self._slots.get(digest)
        if successor is not None and successor.state is State.LOADED:
            return None
        leaving = (slot for slot in self._leaving if slot.generation.digest == digest)
        return next((slot for slot in leaving if slot.runtime is not None and not slot.closing), None)

    def _admit(self) -> None:
        """Starts the loads that there is room for, and makes room for the next."""
        while self._waiting:
            slot = self._waiting[0]
            if self._fits(slot.bytes, self.used, len(self._held())):
                self._waiting.popleft()
                slot.state, slot.began = State.LOADING, self._clock()
                self._spawn(self._load(slot))
                continue
            coming = sum(leaving.bytes for leaving in self._leaving)
            if self._fits(slot.bytes, self.used - coming, len(self._held()) - len(self._leaving)):
                break  # room is on its way
            victim = self._victim()
            if victim is not None:
                self._leave(victim, EVICTED)
            elif error := self._never_fits(slot.generation.digest, slot.bytes):  # others were pinned while it waited
                self._waiting.popleft()
                del self._slots[slot.generation.digest]
                slot.fail(error)
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
            slot.fail(LoadFailed("the model was withdrawn before it was loaded", retry_after=1.0))
            return
        loading, slot.state = slot.state is State.LOADING, State.LEAVING
        self._leaving.add(slot)
        if not loading and not slot.leases and not slot.waiters:
            self._end(slot)

    def _release(self, slot: Slot) -> None:
        slot.leases -= 1
        slot.last_used = self._clock()
        if slot.leases or slot.waiters:
            return
        if slot.state is State.LEAVING:
            self._end(slot)
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
            self._end(slot)
        elif slot.state is State.LOADED and not slot.leases:
            self._rest(slot)
            self._admit()

    def _end(self, slot: Slot) -> None:
        slot.closing = True
        self._spawn(self._close(slot))

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
            with panic.caught():
                runtime = await self._fetch(slot)
        except GatewayError as error:
            self._load_failed(slot, error)
            return
        except Exception as error:  # a load reads what strangers wrote: whatever goes wrong is that model's failure
            self._load_failed(slot, LoadFailed(f"{type(error).__name__}: {error}"))
            return
        slot.runtime = runtime
        slot.bytes = runtime.bytes
        self._failures.forget(slot.generation.digest)
        slot.loaded.set_result(runtime)
        if not slot.returned:
            self._pace.loaded(slot.generation.digest, slot.bytes, self._clock() - began)
        self._observer.loaded(slot, self._clock() - began)
        if slot.state is State.LEAVING:  # withdrawn while it was loading
            if not slot.waiters:
                self._end(slot)
            return
        slot.state = State.LOADED
        if not slot.waiters:
            self._rest(slot)
        while self.used > self.budget and self._idle:  # a prediction fell short: others pay for it at once
            self._leave(self._idle[next(iter(self._idle))], EVICTED)
        self._admit()

    async def _fetch(self, slot: Slot) -> Runtime:
        """From host memory, where it may still be on its way to, or else from the disk."""
        digest = slot.generation.digest
        parking = [old for old in self._leaving if old.closing and old.why == EVICTED]
        await asyncio.gather(*(old.gone.wait() for old in parking if old.generation.digest == digest))
        runtime = await self.tier.unpark(digest)
        slot.returned = runtime is not None
        return runtime or await self._loader.load(slot.generation)

    def _load_failed(self, slot: Slot, failure: GatewayError) -> None:
        digest = slot.generation.digest
        error = self._failures.add(digest, failure)
        if self._slots.get(digest) is slot:
            del self._slots[digest]
        self._leaving.discard(slot)
        slot.gone.set()
        self._observer.failed(slot, error)
        slot.fail(error)
        self._admit()

    async def _close(self, slot: Slot) -> None:
        assert slot.runtime is not None
        runtime, slot.runtime = slot.runtime, None
        digest = slot.generation.digest
        coming = [each for each, other in self._slots.items() if other.state is not State.LOADED]
        if slot.why != EVICTED or not await self.tier.park(digest, runtime, slot.last_used, coming):
            await self._loader.close(runtime)
        self._leaving.discard(slot)
        slot.gone.set()
        self._observer.unloaded(slot, self._clock() - slot.last_used)
        self._admit()

    async def _drop(self, digests: list[str]) -> None:
        await self.tier.drop(digests)
        self._observer.changed()


def _retrieve(future: asyncio.Future[Runtime]) -> None:
    """A failure that nobody waits for any more is not an unhandled one: the pool has told it as an event."""
    if not future.cancelled():
        future.exception()

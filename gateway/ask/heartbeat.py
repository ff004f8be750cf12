"""The right to build an index, which one gateway has at a time, and only for as long as its heart beats.

Whoever builds moves its claim every few seconds. Another that sees a claim stand still takes it over, and measures that
by its own monotonic clock: no two clocks are compared, and no name of a machine says who lives. Whoever could not move
its claim for as long knows by its own clock that it has it no more.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from gateway.ask.passage import Claim
from gateway.ask.store import Store
from gateway.errors import GatewayError, KnowledgeBaseNotFound

BEAT: Final = 2.0  # seconds
STILL: Final = 10.0  # seconds in which a claim that is alive moves

Clock = Callable[[], float]


class Heartbeat:
    """A claim that was had. Ask `lost` before anything that only its holder should do."""

    def __init__(self, store: Store, kb: str, claim: Claim, *, began: float, clock: Clock) -> None:
        """`began`: when the claim was asked for."""
        self._store = store
        self._kb = kb
        self._claim = claim
        self._clock = clock
        self._moved = began
        self._taken = False

    @property
    def lost(self) -> bool:
        """Whether it may be somebody else's by now."""
        return self._taken or self._clock() >= self._moved + STILL

    async def beat(self) -> None:
        """Moves the claim. A store that fails may be well again before the time is over."""
        began = self._clock()
        with suppress(GatewayError):
            try:
                moved = await self._store.claim(self._kb, self._claim, self._claim.holder)
                current = _next(self._claim) if moved else await self._store.claimed(self._kb)
            except KnowledgeBaseNotFound:
                self._taken = True
                return
            if current.holder != self._claim.holder:
                self._taken = True
                return
            if moved:
                self._moved = began
            self._claim = current  # not moved and still ours: the answer to the beat before never came

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beats for as long as this lasts, and gives the claim back at the end."""
        end = asyncio.Event()
        heart = asyncio.create_task(self._beat(end))
        try:
            yield
        finally:
            end.set()
            await heart  # a beat that has begun is not broken off: it would be unknown what the claim is
            if not self.lost:
                with suppress(GatewayError):  # then it stands still, and is taken over in a while
                    await self._store.claim(self._kb, self._claim, "")

    async def _beat(self, end: asyncio.Event) -> None:
        while not self.lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await end.wait()
            if end.is_set():
                return
            await self.beat()


class Contender:
    """One life of one gateway, and what it has seen of the claims of others."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._holder = uuid.uuid4().hex
        self._clock = clock
        self._seen: dict[str, tuple[Claim, float]] = {}  # by base, and since when it stands

    async def claim(self, store: Store, kb: str) -> Heartbeat | None:
        """None while somebody else has it, or seems to: ask again before long. Raises KnowledgeBaseNotFound."""
        began = self._clock()
        found = await store.claimed(kb)
        if not self._free(kb, found) or not await store.claim(kb, found, self._holder):
            return None
        self._seen.pop(kb, None)
        return Heartbeat(store, kb, Claim(self._holder, found.beat + 1), began=began, clock=self._clock)

    def forget(self, kb: str) -> None:
        self._seen.pop(kb, None)

    def _free(self, kb: str, found: Claim) -> bool:
        if not found.holder:
            return True
        now = self._clock()
        seen, since = self._seen.get(kb, (None, now))
        if found != seen:
            self._seen[kb] = (found, now)
            return False
        return now - since >= STILL


def _next(claim: Claim) -> Claim:
    return Claim(claim.holder, claim.beat + 1)

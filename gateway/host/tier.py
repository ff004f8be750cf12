"""Host memory behind the device: what was evicted is parked there, and comes back without the disk.

Parked bytes count until they are free, and with those on their way in or out never exceed the budget; the one that
was parked longest ago makes room. Nothing here stands in anybody's way: what cannot be parked is closed, and what
cannot come back is read from the disk. Where the device is host memory, nothing is copied either way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection

import msgspec

from gateway.errors import GatewayError
from gateway.host.slot import Loader, Runtime


class Parked(msgspec.Struct, frozen=True):
    """`bytes` are those in host memory; `since` is when it was last used, by the pool's clock."""

    runtime: Runtime
    bytes: int
    since: float


class Tier:
    """`budget` in bytes; 0 parks nothing. `loader` does what takes time."""

    def __init__(self, loader: Loader, budget: int) -> None:
        self._loader = loader
        self.budget = budget
        self.returned = 0  # loads that came from here
        self._parked: OrderedDict[str, Parked] = OrderedDict()  # the one that was parked longest ago first
        self._moving = 0  # bytes on their way in or out
        self._turn = asyncio.Lock()  # who parks: two would each see the same room
        self._live: frozenset[str] | None = None  # None: nobody has said yet, all is

    def __repr__(self) -> str:
        return f"<Tier {self.used}/{self.budget} {list(self._parked)}>"

    @property
    def used(self) -> int:
        return sum(parked.bytes for parked in self._parked.values()) + self._moving

    def parked(self) -> dict[str, Parked]:
        """By digest."""
        return dict(self._parked)

    async def park(self, digest: str, runtime: Runtime, last_used: float, wanted: Collection[str] = ()) -> bool:
        """Takes a runtime over from the device, whose bytes are free when this returns. False: there is no room for
        it here beside what is `wanted` back, and it is the caller's still."""
        size = runtime.bytes
        if size > self.budget:
            return False
        async with self._turn:
            await self._drop([digest] if digest in self._parked else [])
            idle = [each for each in self._parked if each not in wanted]
            while idle and self.used + size > self.budget:
                await self._drop([idle.pop(0)])
            if self.used + size > self.budget or not self._is_live(digest):
                return False
            self._moving += size
            try:
                await self._loader.park(runtime)
            except GatewayError:  # it holds nothing any more, here or there
                return True
            finally:
                self._moving -= size
            self._parked[digest] = Parked(runtime, min(size, runtime.bytes), last_used)
        if not self._is_live(digest):  # withdrawn meanwhile
            await self._drop([digest])
        return True

    async def unpark(self, digest: str) -> Runtime | None:
        """Back on the device; None when it is not here, or could not come back and is gone."""
        parked = self._parked.pop(digest, None)
        if parked is None:
            return None
        self._moving += parked.bytes
        try:
            await self._loader.unpark(parked.runtime)
        except GatewayError:
            return None
        finally:
            self._moving -= parked.bytes
        self.returned += 1
        return parked.runtime

    def keep(self, live: frozenset[str]) -> list[str]:
        """What is not live may not be parked; -> those to be dropped now."""
        self._live = live
        return [digest for digest in self._parked if digest not in live]

    async def drop(self, digests: Collection[str] | None = None) -> None:
        """Their bytes, or all, are free when this returns. They may not be here."""
        await self._drop(list(self._parked) if digests is None else digests)

    async def _drop(self, digests: Collection[str]) -> None:
        going = [self._parked.pop(digest) for digest in digests if digest in self._parked]
        self._moving += sum(parked.bytes for parked in going)
        for parked in going:
            await self._loader.close(parked.runtime)
            self._moving -= parked.bytes

    def _is_live(self, digest: str) -> bool:
        return self._live is None or digest in self._live

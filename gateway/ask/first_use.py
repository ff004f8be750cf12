"""The store, opened when a knowledge base is used for the first time: a gateway that nobody asks stays small."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.ask.store import Store


class FirstUse:
    """Called, it answers the one store, open. An opening that fails is tried again by the next who calls. `expected`
    says whether there is anything in it, without opening it."""

    def __init__(self, make: Callable[[], Store], expected: Callable[[], bool]) -> None:
        self._make = make
        self._expected = expected
        self._store: Store | None = None
        self._turn = asyncio.Lock()

    async def __call__(self) -> Store:
        if self._store is None:
            async with self._turn:
                if self._store is None:
                    store = self._make()
                    await store.open()
                    self._store = store
        return self._store

    @property
    def worth_opening(self) -> bool:
        """Whether a knowledge base may be there."""
        return self._store is not None or self._expected()

    @property
    def memory_bytes(self) -> int:
        """Of indexes that this process holds in memory."""
        return 0 if self._store is None else self._store.memory_bytes

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()

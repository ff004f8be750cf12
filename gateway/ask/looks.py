"""Looks at what changes elsewhere, shared by those who want the same one at the same time.

Nobody is answered by a look that began before they asked: what was so when they asked, they see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Looks(Generic[T]):
    """Used by one event loop. Who stops waiting stops nothing else."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, asyncio.Task[T]] = {}  # not begun yet
        self._running: dict[Hashable, asyncio.Task[T]] = {}

    async def __call__(self, key: Hashable, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` says; or that of another caller with the same key, whose turn comes as well."""
        task = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._look(key, look))
            task.add_done_callback(_heard)
        return await asyncio.shield(task)

    async def _look(self, key: Hashable, look: Callable[[], Awaitable[T]]) -> T:
        if before := self._running.get(key):
            await asyncio.wait({before})
        mine = self._running[key] = self._waiting.pop(key)
        try:
            return await look()
        finally:
            if self._running[key] is mine:
                del self._running[key]


def _heard(task: asyncio.Task[T]) -> None:
    """A failure that nobody waits for any more is no news."""
    if not task.cancelled():
        task.exception()

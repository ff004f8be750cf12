"""Who may work at the same time. Loads and device calls share the host; what is suspected of having killed one has it
to itself, so that a second death has one culprit and no innocent bystanders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """A lock that many share or one has alone. Who wants it alone goes before those who come later to share it."""

    def __init__(self) -> None:
        self._sharing = 0
        self._taken = False
        self._wanting = 0  # it alone
        self._sleepers: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        while self._taken or self._wanting:
            await self._sleep()
        self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            self._wake()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self._wanting += 1
        try:
            while self._taken or self._sharing:
                await self._sleep()
            self._taken = True
        finally:
            self._wanting -= 1
            self._wake()
        try:
            yield
        finally:
            self._taken = False
            self._wake()

    async def _sleep(self) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await sleeper

    def _wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

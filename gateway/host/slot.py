"""One generation's place in the pool, and the seams of the pool: what is loaded, who loads it, who is told."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol

from gateway.errors import GatewayError
from gateway.host.wire import Numerics
from gateway.model import Generation


class Runtime(Protocol):
    """A loaded generation. `bytes` is what it holds on the device, measured; `numerics` how it is computed."""

    @property
    def bytes(self) -> int: ...

    @property
    def numerics(self) -> Numerics: ...


class Loader(Protocol):
    """How the pool's slow work is done; all of it is awaited in tasks of the pool's own."""

    async def load(self, generation: Generation) -> Runtime:
        """Raises GatewayError; a load that failed holds nothing."""

    async def close(self, runtime: Runtime) -> None:
        """The bytes are free when this returns, on the device or, if it is parked, in host memory."""

    async def park(self, runtime: Runtime) -> None:
        """Device to host memory: the device's bytes are free when this returns. Raises GatewayError, and then it holds
        nothing anywhere."""

    async def unpark(self, runtime: Runtime) -> None:
        """Host memory to device. Raises as `park` does."""

    def predict(self, generation: Generation) -> int:
        """Bytes that a load will take, never less than it does take."""


class State(Enum):
    WAITING = "waiting"  # for room
    LOADING = "loading"
    LOADED = "loaded"
    LEAVING = "leaving"  # no new leases; closed when the last one ends


class Slot:
    """Owned by the pool; others only hold leases."""

    def __init__(self, generation: Generation, size: int, now: float) -> None:
        self.generation = generation
        self.bytes = size
        self.state = State.WAITING
        self.leases = 0
        self.waiters = 0
        self.began = now
        self.last_used = now
        self.why = ""
        self.returned = False  # it came from host memory, not from the disk
        self.closing = False  # its end has begun: nothing keeps it any more
        self.runtime: Runtime | None = None
        self.loaded: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()  # out of the pool, bytes and all

    def __repr__(self) -> str:
        return f"<{self.generation.short} {self.state.value} {self.bytes} leases={self.leases}>"

    def fail(self, error: GatewayError) -> None:
        """Whoever waits for it is told."""
        if not self.loaded.done():
            self.loaded.set_exception(error)


class Observer(Protocol):
    """Who is told of what the pool did. Called between awaits; must not touch the pool."""

    def loaded(self, slot: Slot, seconds: float) -> None: ...
    def unloaded(self, slot: Slot, idle_seconds: float) -> None: ...
    def failed(self, slot: Slot, error: GatewayError) -> None: ...
    def changed(self) -> None: ...

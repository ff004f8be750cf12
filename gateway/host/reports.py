"""What a host tells of itself: each load, unload and device call, and the state of its pool and queue.

What was loaded or let go is told right behind the state that it is in. Else the state is told when it has changed, and
not more often than every REPORT_SECONDS: leases come and go with each request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.errors import GatewayError
from gateway.host import wire
from gateway.host.slot import Slot
from gateway.host.work import Call

REPORT_SECONDS: Final = 0.1


class Reports:
    """The pool's observer, and the batcher's. `state` makes the report of the whole state."""

    def __init__(
        self,
        send: Callable[[wire.Report, bytes | memoryview], None],
        state: Callable[[], wire.Residency],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._clock = clock
        self._state = state
        self._due: asyncio.Handle | None = None
        self._told = 0.0
        self._news: list[wire.Report] = []  # told behind the next state

    def loaded(self, slot: Slot, seconds: float) -> None:
        assert slot.runtime is not None, "only what was loaded is told"
        runtime, dtype = slot.runtime.numerics.runtime, slot.runtime.numerics.dtype
        self._tell_soon(wire.Loaded(slot.generation.digest, slot.bytes, seconds, slot.returned, runtime, dtype))

    def unloaded(self, slot: Slot, idle_seconds: float) -> None:
        self._tell_soon(wire.Unloaded(slot.generation.digest, slot.bytes, slot.why, idle_seconds))

    def failed(self, slot: Slot, error: GatewayError) -> None:
        retry_after = error.retry_after or 0.0
        self._tell_soon(wire.LoadFailure(slot.generation.digest, error.code, error.message, retry_after))

    def called(self, call: Call, seconds: float) -> None:
        """A device call; placement goes by the queue, which it has changed."""
        self._send(wire.Batch(call.key, call.texts, call.tokens, call.padded_tokens, seconds), b"")
        self.changed()

    def changed(self) -> None:
        if self._due is None:
            wait = max(0.0, self._told + REPORT_SECONDS - self._clock())
            self._due = asyncio.get_running_loop().call_later(wait, self.tell)

    def tell(self) -> None:
        """The state, now, and what has led to it."""
        if self._due is not None:
            self._due.cancel()
        self._due = None
        self._told = self._clock()
        self._send(self._state(), b"")
        news, self._news = self._news, []
        for report in news:
            self._send(report, b"")

    def _tell_soon(self, report: wire.Report) -> None:
        """When this turn of the loop is over: many changes in one are one state."""
        self._news.append(report)
        if self._due is not None:
            self._due.cancel()
        self._due = asyncio.get_running_loop().call_soon(self.tell)

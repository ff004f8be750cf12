"""The circuit of one provider: after failures in a row nobody waits for it, until one call has found it well again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 5  # in a row
PAUSE: Final = 10.0  # seconds until one call may try again


class Breaker:
    """Each call asks `remaining`, and tells `succeeded`, `failed` or `left`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self._trying = False

    def remaining(self) -> float:
        """Seconds for which no call may be made; 0 lets this one through. Once the pause is over the first that asks is
        let through alone."""
        if self._failures < FAILURES:
            return 0.0
        wait = self._until - self._clock()
        if wait > 0:
            return wait
        if self._trying:
            return 1.0
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        self._failures = 0
        self._trying = False

    def failed(self) -> None:
        self._failures += 1
        self._trying = False
        self._until = self._clock() + PAUSE

    def left(self) -> None:
        """The client went before anything was known."""
        self._trying = False

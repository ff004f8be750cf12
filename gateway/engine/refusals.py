"""What a host has just refused for want of room, so that the like of it is refused without asking again.

A wrong refusal costs more than a question, so little is concluded: only for the same generation and flow, only for a
request that is no smaller, only until an answer has left the host, and only for a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import msgspec

from gateway.errors import Overloaded

CHARACTERS: Final = 4  # in a token, as hosts count them
MOMENT: Final = 0.01  # seconds; a device call on a CPU takes about as long, and the queue moves with each


Inputs = Sequence[str] | Sequence[Sequence[int]]


class Refusal(msgspec.Struct, frozen=True):
    """`size` in characters; `until` on the clock."""

    error: Overloaded
    size: int
    until: float


class Refusals:
    """By `key`: a generation, and whose requests for it stand in one queue. Nothing is counted while nothing was
    refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[Hashable, Refusal] = {}

    def check(self, key: Hashable, texts: Inputs) -> None:
        """Raises Overloaded, as the host has put it."""
        last = self._last.get(key)
        if last is None:
            return
        if self._clock() >= last.until:
            del self._last[key]
        elif size(texts) >= last.size:
            raise Overloaded(last.error.message, retry_after=last.error.retry_after, **last.error.details)

    def remember(self, key: Hashable, texts: Inputs, error: Overloaded) -> None:
        self._last[key] = Refusal(error, size(texts), self._clock() + MOMENT)

    def forget(self) -> None:
        """An answer has left: there may be room."""
        if self._last:
            self._last.clear()


def size(texts: Inputs) -> int:
    each = 1 if not texts or isinstance(texts[0], str) else CHARACTERS
    return each * sum(map(len, texts))

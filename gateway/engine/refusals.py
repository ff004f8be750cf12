"""What a host has just refused for want of room, so that the like of it is refused without asking again.

A wrong refusal costs more than a question, so little is concluded: only for the same generation, only for a request
that is no smaller, only until an answer has left the host, and only for a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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
    """By digest. Nothing is counted while nothing was refused."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, Refusal] = {}

    def check(self, digest: str, texts: Inputs) -> None:
        """Raises Overloaded, as the host has put it."""
        last = self._last.get(digest)
        if last is None:
            return
        if self._clock() >= last.until:
            del self._last[digest]
        elif _size(texts) >= last.size:
            raise Overloaded(last.error.message, retry_after=last.error.retry_after, **last.error.details)

    def remember(self, digest: str, texts: Inputs, error: Overloaded) -> None:
        self._last[digest] = Refusal(error, _size(texts), self._clock() + MOMENT)

    def forget(self) -> None:
        """An answer has left: there may be room."""
        if self._last:
            self._last.clear()


def _size(texts: Inputs) -> int:
    each = 1 if not texts or isinstance(texts[0], str) else CHARACTERS
    return each * sum(map(len, texts))

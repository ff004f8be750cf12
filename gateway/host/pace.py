"""How long a load will take, judged by the loads before: its own if it was loaded already, else by its bytes."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

from cachetools import LRUCache

KNOWN: Final = 1024  # generations whose last load is remembered
RECENT: Final = 16  # loads whose median rate is that of the next
FIRST_RATE: Final = 500e6  # bytes a second, before anything was loaded: a disk, and what is done with what it gives
LEAST: Final = 0.05  # seconds: however small, a tokenizer is read and a probe is run


class Pace:
    """Times in seconds, sizes in bytes."""

    def __init__(self) -> None:
        self._own: LRUCache[str, float] = LRUCache(KNOWN)
        self._rates: deque[float] = deque(maxlen=RECENT)

    def loaded(self, digest: str, size: int, seconds: float) -> None:
        self._own[digest] = seconds
        self._rates.append(size / max(seconds, LEAST))

    def seconds(self, digest: str, size: int) -> float:
        """From the beginning of a load to its end."""
        known: float | None = self._own.get(digest)
        if known is not None:
            return known
        rate = statistics.median(self._rates) if self._rates else FIRST_RATE
        return max(LEAST, size / max(rate, 1.0))

"""Generations that keep killing their host: who has struck, and who is kept away from the devices for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from gateway.errors import ModelQuarantined
from gateway.model import Generation

STRIKES: Final = 2  # deaths of a host with the same request, or the same generation, on its device
FIRST: Final = 60.0  # seconds; doubled each time
LAST: Final = 3600.0


class Strikes(NamedTuple):
    """`last` is when the last host died, on the clock."""

    deaths: int
    last: float


class Quarantine:
    """By digest. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._strikes: dict[str, Strikes] = {}
        self._terms: dict[str, tuple[float, float]] = {}  # until, length

    def strike(self, digest: str, *, sole: bool, since: float, ago: float = 0.0) -> float | None:
        """A host died, `ago` seconds ago, that had run this for `since` seconds. -> the seconds that it is kept away
        for, if that convicts it: only `sole` does, since nothing else was at work then. What was at work already when
        another host died of it is the same strike: hosts that die together die of something else."""
        now, before = self._clock(), self._strikes.get(digest)
        died = now - ago
        if before is None:
            self._strikes[digest] = Strikes(1, died)
            return None
        if died - since < before.last:
            return None
        self._strikes[digest] = Strikes(before.deaths + 1, died)
        if before.deaths + 1 < STRIKES or not sole:
            return None
        _, term = self._terms.get(digest, (0.0, 0.0))
        length = min(LAST, term * 2) if term else FIRST
        self._terms[digest] = (now + length, length)
        self._strikes.pop(digest, None)
        return length

    def survived(self, digest: str) -> None:
        """A call of it came back: it has not struck."""
        self._strikes.pop(digest, None)

    def forgive(self, generation: Generation) -> None:
        """It, and its base, are as if nothing had been."""
        for each in (generation, generation.base):
            if each is not None:
                self._terms.pop(each.digest, None)
                self._strikes.pop(each.digest, None)

    def keep(self, known: Container[str]) -> None:
        """Only these are remembered."""
        self._strikes = {digest: strikes for digest, strikes in self._strikes.items() if digest in known}
        self._terms = {digest: term for digest, term in self._terms.items() if digest in known}

    def left(self, digest: str) -> float | None:
        """Seconds of its term; None if it serves none."""
        until, _ = self._terms.get(digest, (0.0, 0.0))
        left = until - self._clock()
        return left if left > 0 else None

    def refuse(self, generation: Generation) -> None:
        """Raises ModelQuarantined, for itself or for its base."""
        if generation.base is not None:
            self.refuse(generation.base)
        left = self.left(generation.digest)
        if left is not None:
            raise ModelQuarantined(
                "the model's host died twice while it ran this model; it is tried again later, when its directory "
                "changes, or when an operator loads it",
                retry_after=left,
                generation=generation.short,
            )

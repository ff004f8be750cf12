"""What is asked of each device now: known at once, while what the devices report is a moment old."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager


class Asked:
    """What is asked now: how much, and by how many requests."""

    __slots__ = ("amount", "requests")

    def __init__(self) -> None:
        self.amount = 0.0
        self.requests = 0

    def add(self, amount: float) -> None:
        self.amount += amount
        self.requests += 1

    def take(self, amount: float) -> None:
        self.requests -= 1
        self.amount = self.amount - amount if self.requests else 0.0  # exactly, which a sum of many parts is not


class Demand:
    """By device and generation, in seconds of the device's time for what was asked and is not answered."""

    def __init__(self) -> None:
        self._of: defaultdict[tuple[int, str], Asked] = defaultdict(Asked)
        self._all: defaultdict[int, Asked] = defaultdict(Asked)

    @contextmanager
    def of(self, index: int, digest: str, amount: float) -> Iterator[None]:
        """As long as this lasts, so much of the generation is with that device."""
        own, all_of_it = self._of[index, digest], self._all[index]
        own.add(amount)
        all_of_it.add(amount)
        try:
            yield
        finally:
            all_of_it.take(amount)
            own.take(amount)
            if not own.requests:
                del self._of[index, digest]

    def load(self, index: int) -> float:
        return self._all[index].amount

    def share(self, index: int, digest: str) -> float:
        """The generation's part of all that is asked of the device, from 0 to 1."""
        own, all_of_it = self._of.get((index, digest)), self._all[index].amount
        return own.amount / all_of_it if own is not None and all_of_it else 0.0


class Lasting:
    """Since when something has been so without a break, by key. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def seconds(self, key: str, so: bool) -> float:
        """For how long it has been `so`, as of now."""
        if not so:
            self._since.pop(key, None)
            return 0.0
        now = self._clock()
        return now - self._since.setdefault(key, now)

    def keep(self, known: Container[str]) -> None:
        """Only these are remembered."""
        self._since = {key: since for key, since in self._since.items() if key in known}

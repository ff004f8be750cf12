"""What is asked of each device now: known at once, while what the devices report is a moment old."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager

from gateway.engine.refusals import Inputs, size


class Demand:
    """In characters of what was asked and is not answered, by device and generation; token ids count as some each."""

    def __init__(self) -> None:
        self._of: Counter[tuple[int, str]] = Counter()
        self._all: Counter[int] = Counter()

    @contextmanager
    def of(self, index: int, digest: str, inputs: Inputs) -> Iterator[None]:
        """As long as this lasts, the inputs are with that device."""
        asked = size(inputs)
        self._of[index, digest] += asked
        self._all[index] += asked
        try:
            yield
        finally:
            self._all[index] -= asked
            self._of[index, digest] -= asked
            if not self._of[index, digest]:
                del self._of[index, digest]

    def load(self, index: int) -> int:
        return self._all[index]

    def share(self, index: int, digest: str) -> float:
        """The generation's part of all that is asked of the device, from 0 to 1."""
        return self._of[index, digest] / self._all[index] if self._all[index] else 0.0


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

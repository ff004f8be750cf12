"""What a host was doing when it died: a page of memory that it shares with the gateway.

The host writes down each device call and each load before it begins; the gateway reads the page after a crash, and
while a call takes too long. Nothing is sent and nothing is flushed, so a segmentation fault cannot lose it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

LINE: Final = struct.Struct("<d64sI")  # when it began (monotonic; 0: idle), digest, number of request ids
BEGAN: Final = struct.Struct("<d")
DEVICE: Final = 0
LOADS: Final = range(1, 5)
IDS: Final = LINE.size * (1 + len(LOADS))  # where those of the device call stand, each a u32
ID_BYTES: Final = 4
MAX_REQUESTS: Final = 4096  # as many short texts as a large call of a GPU has
SIZE: Final = IDS + ID_BYTES * MAX_REQUESTS


class Entry(NamedTuple):
    """`began` is on the system's monotonic clock, in seconds; `requests` are the ids in the device call."""

    began: float
    digest: str
    requests: tuple[int, ...]


class Recorder:
    """A shared page with a line for the device and one for each load that runs at once. `clock` in seconds, the same
    for both ends."""

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._page = mmap.mmap(fd, SIZE)

    @classmethod
    def create(cls, clock: Callable[[], float] = time.monotonic) -> Recorder:
        fd = os.memfd_create("dropgate-recorder", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE)
        return cls(fd, clock)

    def fileno(self) -> int:
        return self._fd

    @contextlib.contextmanager
    def device_call(self, digest: str, requests: Sequence[int]) -> Iterator[None]:
        """Around one device call."""
        yield from self._write(DEVICE, digest, requests)

    @contextlib.contextmanager
    def load(self, digest: str) -> Iterator[None]:
        """Around one load. The line is free: there are never more loads at once than lines."""
        free = next(line for line in LOADS if not self._began(line))
        yield from self._write(free, digest, ())

    def running(self) -> Entry | None:
        """The device call that goes on, or went on when the host died."""
        return self._read(DEVICE)

    def loading(self) -> list[Entry]:
        return [entry for line in LOADS if (entry := self._read(line))]

    def since(self) -> dict[str, float]:
        """Seconds for which each generation has been at work, or had been when the host died: on the device, or in a
        load."""
        entries = [*self.loading(), *filter(None, (self.running(),))]
        return {entry.digest: self._clock() - entry.began for entry in entries}

    def clear(self) -> None:
        self._page[:] = bytes(SIZE)

    def close(self) -> None:
        self._page.close()
        os.close(self._fd)

    def _write(self, line: int, digest: str, requests: Sequence[int]) -> Iterator[None]:
        ids = array("I", requests[:MAX_REQUESTS])
        self._page[IDS : IDS + ID_BYTES * len(ids)] = ids.tobytes()
        LINE.pack_into(self._page, line * LINE.size, 0.0, digest.encode(), len(ids))
        BEGAN.pack_into(self._page, line * LINE.size, self._clock())  # last: now the line is whole
        try:
            yield
        finally:
            BEGAN.pack_into(self._page, line * LINE.size, 0.0)

    def _began(self, line: int) -> float:
        return float(BEGAN.unpack_from(self._page, line * LINE.size)[0])

    def _read(self, line: int) -> Entry | None:
        began, digest, count = LINE.unpack_from(self._page, line * LINE.size)
        if not began:
            return None
        ids = array("I", self._page[IDS : IDS + ID_BYTES * count])
        return Entry(began, digest.rstrip(b"\0").decode(), tuple(ids))

"""What a host was doing when it died: a page of memory that it shares with the gateway.

The host writes down each device call, each load and each work with tokens before it begins; the gateway reads the page
after a crash, and while one of them takes too long. Nothing is sent and nothing is flushed, so a segmentation fault
cannot lose it.
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

# When it began (monotonic; 0: idle), the digest, and the number of request ids; of work with tokens, its request's id.
LINE: Final = struct.Struct("<d64sI")
BEGAN: Final = struct.Struct("<d")
DEVICE: Final = 0
LOADS: Final = range(1, 5)
TOKENS: Final = range(LOADS.stop, LOADS.stop + 128)
IDS: Final = LINE.size * TOKENS.stop  # where those of the device call stand, each a u32
ID_BYTES: Final = 4
MAX_REQUESTS: Final = 4096  # as many short texts as a large call of a GPU has
SIZE: Final = IDS + ID_BYTES * MAX_REQUESTS


class Entry(NamedTuple):
    """`began` is on the system's monotonic clock, in seconds; `requests` are the ids in the device call, or the one
    whose tokens are worked with."""

    began: float
    digest: str
    requests: tuple[int, ...]


class Recorder:
    """A shared page with a line for the device, and one for each load and each work with tokens that run at once.
    `clock` in seconds, the same for both ends."""

    def __init__(self, fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._fd = fd
        self._clock = clock
        self._page = mmap.mmap(fd, SIZE)
        self._free = list(TOKENS)  # taken from and given back to by several threads, each in one step

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
        ids = array("I", requests[:MAX_REQUESTS])
        self._page[IDS : IDS + ID_BYTES * len(ids)] = ids.tobytes()
        yield from self._write(DEVICE, digest, len(ids))

    @contextlib.contextmanager
    def load(self, digest: str) -> Iterator[None]:
        """Around one load. The line is free: there are never more loads at once than lines."""
        free = next(line for line in LOADS if not self._began(line))
        yield from self._write(free, digest, 0)

    @contextlib.contextmanager
    def tokens(self, digest: str, request: int) -> Iterator[None]:
        """Around what a tokenizer or a chat template does for one request, on any thread. There are never more at once
        than lines."""
        line = self._free.pop()
        try:
            yield from self._write(line, digest, request)
        finally:
            self._free.append(line)

    def running(self) -> Entry | None:
        """The device call that goes on, or went on when the host died."""
        return self._read(DEVICE)

    def loading(self) -> list[Entry]:
        return [entry for line in LOADS if (entry := self._read(line))]

    def tokenizing(self) -> list[Entry]:
        return [entry for line in TOKENS if (entry := self._read(line))]

    def at_work(self) -> list[Entry]:
        """All that goes on, or went on when the host died; the device call last."""
        return [*self.loading(), *self.tokenizing(), *filter(None, (self.running(),))]

    def since(self) -> dict[str, float]:
        """Seconds for which each generation has been at work, or had been when the host died: on the device, in a load,
        or with tokens."""
        return {entry.digest: self._clock() - entry.began for entry in self.at_work()}

    def clear(self) -> None:
        self._page[:] = bytes(SIZE)

    def close(self) -> None:
        self._page.close()
        os.close(self._fd)

    def _write(self, line: int, digest: str, number: int) -> Iterator[None]:
        LINE.pack_into(self._page, line * LINE.size, 0.0, digest.encode(), number)
        BEGAN.pack_into(self._page, line * LINE.size, self._clock())  # last: now the line is whole
        try:
            yield
        finally:
            BEGAN.pack_into(self._page, line * LINE.size, 0.0)

    def _began(self, line: int) -> float:
        return float(BEGAN.unpack_from(self._page, line * LINE.size)[0])

    def _read(self, line: int) -> Entry | None:
        began, digest, number = LINE.unpack_from(self._page, line * LINE.size)
        if not began:
            return None
        ids = (number,) if line in TOKENS else tuple(array("I", self._page[IDS : IDS + ID_BYTES * number]))
        return Entry(began, digest.rstrip(b"\0").decode(), ids)

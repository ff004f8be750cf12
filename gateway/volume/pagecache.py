"""Asking the kernel for a file before it is read.

One piece at a time: Linux reads ahead no more than a device's own limit for each call, 128 KiB where it is least, and
drops the rest without a word. Nothing is asked for that would push everything else out of memory.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.model import Generation

PIECE: Final = 128 * 1024
SHARE: Final = 0.5  # of the memory that is to be had
MEMORY: Final = Path("/proc/meminfo")


def read_ahead(generation: Generation) -> int:
    """Has the disk read the generation's weights; -> bytes that were asked for. What cannot be read is left to whoever
    needs it, and to say so. Blocking for as long as the disk takes orders, not until it has carried them out."""
    if generation.manifest.stored_bytes > SHARE * _available():
        return 0
    asked = 0
    for name in generation.manifest.weights:
        with suppress(OSError):
            asked += _ask_for(os.path.join(generation.path, name))
    return asked


def _ask_for(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.fstat(descriptor).st_size
        for begin in range(0, size, PIECE):
            os.posix_fadvise(descriptor, begin, PIECE, os.POSIX_FADV_WILLNEED)
        return size
    finally:
        os.close(descriptor)


def _available() -> float:
    """Bytes; all there are, where the kernel does not say."""
    with suppress(OSError):
        if found := re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return float("inf")

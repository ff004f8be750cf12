"""The gateway process's own memory: what a swap or a large answer took goes back to the system once it is free.

Left alone, nothing is lost, but a process that is swapped all day slowly spreads over the free room of its heap, and
looks like one that leaks.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

COLLECT_AFTER: Final = 10_000  # new objects between collections; a request leaves next to none that are cyclic
M_ARENA_MAX: Final = -8


def prepare() -> None:
    """One heap for all threads, where glibc is the allocator: each keeps what was freed, and we have but few that
    allocate. Source: mallopt(3)."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_ARENA_MAX, 1)


def settle() -> None:
    """What is there now stays: the collector need not look at it again between requests."""
    tidy()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def tidy() -> None:
    """Gives back what is free, CPython's lists of spare objects too. Half a millisecond, after `settle`."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)

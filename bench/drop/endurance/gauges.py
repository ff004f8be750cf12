"""What a process holds, read from /proc, where nothing is forgotten: memory, descriptors, threads."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
END: Final = 0.1  # the share of a run that is averaged at either end of it


@dataclass(frozen=True, slots=True)
class Gauges:
    """`resident` and `private` (of it, what no file backs) in bytes."""

    resident: int
    private: int
    descriptors: int
    threads: int


def read(pid: int) -> Gauges:
    """Raises OSError when there is no such process."""
    process = Path(f"/proc/{pid}")
    resident, shared = (int(pages) * PAGE for pages in (process / "statm").read_text().split()[1:3])
    return Gauges(
        resident=resident,
        private=resident - shared,
        descriptors=len(os.listdir(process / "fd")),
        threads=len(os.listdir(process / "task")),
    )


def drift(samples: Sequence[int]) -> float:
    """Growth from the first tenth of the samples to the last, as a share of the first; medians, since one sample
    may fall into a garbage collection."""
    count = max(1, int(len(samples) * END))
    first = statistics.median(samples[:count])
    return (statistics.median(samples[-count:]) - first) / first

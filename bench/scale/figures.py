"""What a run comes to: a handful of numbers, and over several seeds their means with an interval."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bench.scale.hosts import Ledger
from bench.scale.world import Cell

WINDOW: Final = 1.0  # seconds in which loads are counted together
AFTER: Final = 10.0  # seconds after a death, or the coming of a crowd, that are its storm
STUDENT: Final = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # t of 95%, by the number of seeds

Figures = dict[str, float]


class Seen:
    """What was answered while the clock counted."""

    def __init__(self) -> None:
        self.counting = False
        self.asked: list[float] = []
        self.waits: list[float] = []
        self.hits = 0
        self.began = self.ended = 0.0
        self._before: list[float] = []
        self.busy: list[float] = []

    def begin(self, now: float, ledger: Ledger) -> None:
        self.counting, self.began, self._before = True, now, list(ledger.busy)

    def end(self, now: float, ledger: Ledger) -> None:
        self.ended = now
        self.busy = [after - before for after, before in zip(ledger.busy, self._before, strict=True)]

    def answered(self, asked: float, wait: float, *, hit: bool) -> None:
        self.asked.append(asked)
        self.waits.append(max(0.0, wait))
        self.hits += hit


def figures(cell: Cell, seen: Seen, ledger: Ledger, outcomes: Counter[str], turn: float) -> Figures:
    """Times in seconds. `wait` is what a request takes beside its own computing: the queue, and a load. `imbalance` is
    the busiest device over the mean, `spread` the standard deviation over the mean. `turn` is when
    devices died or a crowd came: `storm` is the most loads that began in one of the seconds after it, over all devices,
    and `piled` the most of them on one."""
    seconds = seen.ended - seen.began
    loads = [load for load in ledger.loads if seen.began <= load[0] < seen.ended]
    busy = np.array(seen.busy)
    p50, p99 = np.percentile(seen.waits, [50, 99])
    found = {
        "answered": float(outcomes["answered"]),
        "failed": float(sum(outcomes.values()) - outcomes["answered"]),
        "hit_rate": seen.hits / len(seen.waits),
        "loads_per_second": len(loads) / seconds,
        "bytes_per_second": sum(size for _, _, size in loads) / seconds,
        "wait_p50": float(p50),
        "wait_p99": float(p99),
        "wait_mean": statistics.fmean(seen.waits),
        "imbalance": float(busy.max() / busy.mean()) if busy.mean() else 0.0,
        "spread": float(busy.std() / busy.mean()) if busy.mean() else 0.0,
        "most_over_budget": ledger.most / cell.budget,
        "work_per_second": float(busy.sum()) / seconds,
        "seconds": seconds,
    }
    if cell.deaths or cell.crowd:
        found |= _storm(seen, ledger, turn)
    return found


def _storm(seen: Seen, ledger: Ledger, turn: float) -> Figures:
    after = [load for load in ledger.loads if turn <= load[0] < turn + AFTER]
    windows = Counter(int((when - turn) / WINDOW) for when, _, _ in after)
    piles = Counter((int((when - turn) / WINDOW), device) for when, device, _ in after)
    waits = [wait for asked, wait in zip(seen.asked, seen.waits, strict=True) if turn <= asked < turn + AFTER]
    return {
        "storm": float(max(windows.values(), default=0)),
        "piled": float(max(piles.values(), default=0)),
        "storm_p99": float(np.percentile(waits, 99)) if waits else 0.0,
    }


def over_seeds(runs: Sequence[Figures]) -> dict[str, tuple[float, float]]:
    """Of each figure the mean, and half of its 95% interval by Student's t; 0 for a single run."""
    found: dict[str, tuple[float, float]] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        half = 0.0
        if len(values) > 1:
            t = STUDENT.get(len(values), 2.0)
            half = t * statistics.stdev(values) / len(values) ** 0.5
        found[key] = (statistics.fmean(values), half)
    return found


def ratio(cell: Mapping[str, tuple[float, float]], other: Mapping[str, tuple[float, float]], key: str) -> float:
    return cell[key][0] / other[key][0] if other[key][0] else 0.0
